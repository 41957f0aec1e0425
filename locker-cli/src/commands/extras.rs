//! `completions` and `man`: what packagers put beside the binary.

use crate::args::Cli;
use crate::exit::{Exit, TABLE};
use crate::failure::Failure;
use crate::output::Output;
use clap::CommandFactory;
use clap_complete::Shell;

/// `locker completions SHELL`.
pub(super) fn completions(shell: Shell, out: &mut Output) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "locker", &mut script);
    out.line(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Exit::SUCCESS)
}

/// `locker man`: the page of `locker`, followed by a section for each command.
pub(super) fn man(out: &mut Output) -> Result<Exit, Failure> {
    let mut page = Vec::new();
    let cli = Cli::command();
    let page_of_all = clap_mangen::Man::new(cli.clone().after_help(""));
    page_of_all.render_title(&mut page)?;
    page_of_all.render_name_section(&mut page)?;
    page_of_all.render_synopsis_section(&mut page)?;
    page_of_all.render_description_section(&mut page)?;
    page_of_all.render_options_section(&mut page)?;
    for command in cli
        .get_subcommands()
        .filter(|command| command.get_name() != "help")
    {
        let name = command.get_name().to_uppercase();
        page.extend_from_slice(format!(".SH \"LOCKER {name}\"\n").as_bytes());
        let mut section = Vec::new();
        let section_of = clap_mangen::Man::new(
            command
                .clone()
                .bin_name(format!("locker {}", command.get_name()))
                .after_help("")
                .disable_help_flag(true),
        );
        section_of.render_synopsis_section(&mut section)?;
        section_of.render_description_section(&mut section)?;
        section_of.render_options_section(&mut section)?;
        // Sections of a command are subsections of the page.
        let text = String::from_utf8_lossy(&section).replace(".SH ", ".SS ");
        page.extend_from_slice(text.as_bytes());
    }
    page.extend_from_slice(exit_status().as_bytes());
    page.extend_from_slice(include_str!("manual.roff").as_bytes());
    out.line(String::from_utf8_lossy(&page).trim_end())?;
    Ok(Exit::SUCCESS)
}

/// The table of exit codes as a section of the page.
fn exit_status() -> String {
    let rows = TABLE.lines().skip(1).collect::<Vec<_>>().join("\n");
    format!(
        ".SH \"EXIT STATUS\"\n.nf\n{}\n.fi\n",
        rows.replace('-', "\\-")
    )
}
