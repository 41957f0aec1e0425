//! A Redis server in a container, for machines that have a container engine and no Redis.
//!
//! The engine is found as its own command finds it (`DOCKER_HOST`, or the system's socket). Which
//! image runs is said by a variable of the environment; `scripts/container-images` makes one from
//! this system's own packages, for a machine that reaches no registry.

use crate::Missing;
use std::env;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use testcontainers::core::{IntoContainerPort, WaitFor};
use testcontainers::runners::SyncRunner;
use testcontainers::{GenericImage, ImageExt, TestcontainersError};

/// The variable that names the image, as `name:tag`.
pub const IMAGE_VARIABLE: &str = "LOCKER_TEST_REDIS_IMAGE";
/// The image where the variable names none.
pub const IMAGE: &str = "redis:7";

/// Where a Redis server listens by itself.
const PORT: u16 = 6379;

/// A standalone server in a container of its own. Dropping it removes the container.
///
/// A test that is killed cannot do that: what it leaves bears the label
/// `org.testcontainers.managed-by`.
pub struct Container {
    _running: testcontainers::Container<GenericImage>,
    url: String,
}

impl Container {
    /// Starts it, and waits until it answers. It blocks: not for an asynchronous task, except by
    /// `spawn_blocking`.
    ///
    /// # Errors
    ///
    /// [`Missing`] when there is no engine, or no such image.
    pub fn start() -> Result<Self, Missing> {
        let image = env::var(IMAGE_VARIABLE).unwrap_or_else(|_| IMAGE.to_owned());
        let (name, tag) = image.rsplit_once(':').unwrap_or((&image, "latest"));
        let missing = |error: TestcontainersError| {
            Missing::new(
                format!("no container of the image {image} starts: {error}"),
                format!(
                    "start a container engine (apt-get install docker.io; dockerd), and name an \
                     image in {IMAGE_VARIABLE} (scripts/container-images makes one)"
                ),
            )
        };
        let running = GenericImage::new(name, tag)
            .with_exposed_port(PORT.tcp())
            .with_wait_for(WaitFor::message_on_stdout("Ready to accept connections"))
            // Its clients come from outside of its own loopback.
            .with_cmd(["--protected-mode", "no", "--save", ""])
            .start()
            .map_err(missing)?;
        let host = running.get_host().map_err(missing)?;
        let port = running.get_host_port_ipv4(PORT.tcp()).map_err(missing)?;
        Ok(Self {
            _running: running,
            url: format!("redis://{host}:{port}"),
        })
    }

    /// One container for all tests of this process that run at the same time. It goes with the
    /// last of them.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn shared() -> Result<Arc<Self>, Missing> {
        static SHARED: Mutex<Weak<Container>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(container) = shared.upgrade() {
            return Ok(container);
        }
        let container = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&container);
        Ok(container)
    }

    /// Where clients find it.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Container")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}
