//! Showing how the cases went: a table for the terminal, JSON, and a picture of each case.

pub mod svg;
pub mod table;

use super::deployment::{Cell, Deployment};
use super::fault::Fault;
use super::run::CaseReport;
use serde::Serialize;

/// Everything, as JSON.
#[derive(Debug, Serialize)]
pub struct Report<'r> {
    /// Of all random choices.
    pub seed: u64,
    /// How the cases went.
    pub cases: &'r [CaseReport],
    /// The cells that are not run, and why.
    pub cells: Vec<NotRun>,
}

/// A cell of the table that is not run.
#[derive(Debug, Serialize)]
pub struct NotRun {
    /// On what.
    pub deployment: &'static str,
    /// Which fault.
    pub fault: Fault,
    /// What is done.
    pub title: &'static str,
    /// The other test that shows it, if there is one.
    pub shown_by: Option<&'static str>,
    /// Why it cannot happen, if it cannot.
    pub does_not_apply: Option<&'static str>,
}

/// The cells of these deployments that are not run.
pub fn not_run(deployments: &[&'static dyn Deployment]) -> Vec<NotRun> {
    let mut cells = Vec::new();
    for deployment in deployments {
        for fault in Fault::all() {
            let (shown_by, does_not_apply) = match deployment.cell(fault) {
                Cell::Run(_) => continue,
                Cell::ShownBy(test) => (Some(test), None),
                Cell::DoesNotApply(reason) => (None, Some(reason)),
            };
            cells.push(NotRun {
                deployment: deployment.name(),
                fault,
                title: fault.title(),
                shown_by,
                does_not_apply,
            });
        }
    }
    cells
}
