//! How the end of a process is seen.

use crate::error;
use locker_core::BackendError;
use std::time::Duration;

/// For how long a session counts that keeps its lock and reports nothing, at least: a machine that
/// vanished from the network keeps it for hours.
const BELIEVED: Duration = Duration::from_secs(10);

/// How others see that a process has died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum CrashDetection {
    /// Its last report is older than the liveness TTL (10 s).
    #[default]
    Reports,
    /// Its last report is older than `grace`, and its session with the server has ended, which the
    /// kernel of a process that is killed sees to at once. The session is that of the Reporter's
    /// reports; it keeps an advisory lock.
    ///
    /// *What it gives.* The locks of a process that crashed are free `grace` after its last report. A
    /// connection that breaks loses nothing: the next report brings the advisory lock to a new one.
    /// While the session is there, nobody takes over before ten seconds (or `grace`, if that is
    /// longer) without a report, so a job that does not stop in time still has the lock to itself.
    ///
    /// *What it costs.* The owner, too, counts by `grace`: without a report for about three quarters
    /// of it, its locks are lost. So a process reports every fifth of it, jobs have a fifth of it to
    /// stop, and a server that stalls longer than about 0.4 times `grace` loses locks. It needs a
    /// session, so no pooler may be between. All processes of a namespace may choose for themselves.
    Session {
        /// 3 s is a good choice.
        grace: Duration,
    },
}

impl CrashDetection {
    /// By the session, with a grace of three seconds.
    pub const SESSION: Self = Self::Session {
        grace: Duration::from_secs(3),
    };

    /// As a URL says it: `reports` or `session`, and the grace as `3s` or `800ms`.
    pub(crate) fn from_words(
        word: Option<&str>,
        grace: Option<&str>,
    ) -> Result<Self, BackendError> {
        let grace = grace.map(duration).transpose()?;
        match (word, grace) {
            (None | Some("reports"), None) => Ok(Self::Reports),
            (None | Some("reports"), Some(_)) => {
                Err(error::config("grace belongs to crash_detection=session"))
            }
            (Some("session"), None) => Ok(Self::SESSION),
            (Some("session"), Some(grace)) => Ok(Self::Session { grace }),
            (Some(_), _) => Err(error::config("crash_detection is `reports` or `session`")),
        }
    }

    /// In the place of the liveness TTL.
    pub(crate) fn dead_after(self) -> Option<Duration> {
        match self {
            Self::Reports => None,
            Self::Session { grace } => Some(grace),
        }
    }

    /// For how long a session is believed without a report.
    pub(crate) fn believed(self) -> Option<Duration> {
        self.dead_after().map(|grace| grace.max(BELIEVED))
    }
}

fn duration(text: &str) -> Result<Duration, BackendError> {
    let wrong = || error::config("grace is a time such as 3s or 800ms");
    let (number, unit) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1e-3),
        (None, Some(number)) => (number, 1.0),
        (None, None) => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * unit).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_the_detector_and_its_grace() {
        let read = CrashDetection::from_words;
        let session = |millis| CrashDetection::Session {
            grace: Duration::from_millis(millis),
        };
        assert_eq!(read(None, None).unwrap(), CrashDetection::Reports);
        assert_eq!(
            read(Some("reports"), None).unwrap(),
            CrashDetection::Reports
        );
        assert_eq!(read(Some("session"), None).unwrap(), session(3_000));
        assert_eq!(read(Some("session"), Some("800ms")).unwrap(), session(800));
        assert_eq!(read(Some("session"), Some("1.5s")).unwrap(), session(1_500));
        for (word, grace) in [
            (None, Some("3s")),
            (Some("reports"), Some("3s")),
            (Some("session"), Some("3")),
            (Some("session"), Some("-1s")),
            (Some("session"), Some("infs")),
            (Some("sessions"), None),
        ] {
            assert!(read(word, grace).is_err(), "{word:?} {grace:?}");
        }
    }
}
