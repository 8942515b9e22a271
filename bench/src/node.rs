//! The server under test: the `chatd` beside this executable, in a process and a data
//! directory of its own, with real syncs.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const READY_WITHIN: Duration = Duration::from_secs(120);

/// A node; killed when dropped.
pub(crate) struct Node {
    folder: tempfile::TempDir,
    binary: PathBuf,
    settings: Vec<String>,
    child: Child,
    /// Where clients come.
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
}

impl Node {
    /// Starts a node whose limits do not stand in the way of a load.
    ///
    /// # Errors
    /// If it does not get ready.
    pub(crate) async fn start(settings: &[&str]) -> Result<Self> {
        let wide = [
            "limits.sends_per_second=1000000",
            "limits.sends_burst=1000000",
            "limits.new_inboxes_per_hour=1000000000",
            "limits.event_credits=4096",
            "edge.max_connections=30000",
        ];
        Self::with_default_limits(None, &[&wide, settings].concat()).await
    }

    /// Starts a node with the limits that it has by itself. `binary` is another chatd than
    /// the one beside this executable.
    ///
    /// # Errors
    /// If it does not get ready.
    pub(crate) async fn with_default_limits(
        binary: Option<PathBuf>,
        settings: &[&str],
    ) -> Result<Self> {
        let folder = tempfile::tempdir().context("a folder for the node")?;
        let (address, admin) = (free_address()?, free_address()?);
        let binary = match binary {
            Some(binary) => binary,
            None => std::env::current_exe()?.with_file_name("chatd"),
        };
        let settings: Vec<String> = ["logging.filter=warn"]
            .iter()
            .chain(settings)
            .map(ToString::to_string)
            .collect();
        let child = launch(&binary, folder.path(), address, admin, &settings)?;
        let mut node = Self {
            folder,
            binary,
            settings,
            child,
            address,
            admin,
        };
        node.wait_ready().await?;
        Ok(node)
    }

    /// Kills it and starts it again on the same data. Says when the first shard and
    /// when all shards served.
    ///
    /// # Errors
    /// If it does not get ready.
    pub(crate) async fn kill_and_restart(&mut self) -> Result<(Duration, Duration)> {
        self.child.kill()?;
        self.child.wait()?;
        let started = Instant::now();
        self.child = launch(
            &self.binary,
            self.folder.path(),
            self.address,
            self.admin,
            &self.settings,
        )?;
        let mut first = None;
        loop {
            let text = self.get("/v1/cluster").await.unwrap_or_default();
            if first.is_none() && text.contains("\"serves\":true") {
                first = Some(started.elapsed());
            }
            if text.contains("\"ready\":true") {
                let all = started.elapsed();
                return Ok((first.unwrap_or(all), all));
            }
            if started.elapsed() > READY_WITHIN {
                bail!("not ready after a restart: {text}\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Seconds of CPU, user and system, since the process began.
    ///
    /// # Errors
    /// If the process is gone.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<_> = stat
            .rsplit_once(')')
            .context("stat")?
            .1
            .split_whitespace()
            .collect();
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        #[expect(clippy::cast_precision_loss, reason = "a hundred or so")]
        Ok(ticks / rustix::param::clock_ticks_per_second() as f64)
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// If the process is gone.
    pub(crate) fn resident_bytes(&self) -> Result<f64> {
        self.status_bytes("VmRSS:")
    }

    /// Memory of its own in bytes: pages of mapped segments, which the system takes back
    /// when it likes, are not counted.
    ///
    /// # Errors
    /// If the process is gone.
    pub(crate) fn anonymous_bytes(&self) -> Result<f64> {
        self.status_bytes("RssAnon:")
    }

    fn status_bytes(&self, name: &'static str) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status
            .lines()
            .find(|line| line.starts_with(name))
            .context(name)?;
        let kib: f64 = line.split_whitespace().nth(1).context(name)?.parse()?;
        Ok(kib * 1024.0)
    }

    /// The certificate that it made for itself.
    #[must_use]
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("data/tls/cert.pem")
    }

    /// A file beside its data.
    #[must_use]
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Answers of the admin port, without the head.
    ///
    /// # Errors
    /// If it does not answer.
    pub(crate) async fn get(&self, path: &str) -> Result<String> {
        let mut stream = tokio::net::TcpStream::connect(self.admin).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text
            .split_once("\r\n\r\n")
            .map(|(_, body)| body.to_owned())
            .unwrap_or_default())
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            if self
                .get("/v1/cluster")
                .await
                .is_ok_and(|text| text.contains("\"ready\":true"))
            {
                return Ok(());
            }
            if started.elapsed() > READY_WITHIN || self.child.try_wait()?.is_some() {
                bail!("the node does not get ready:\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn launch(
    binary: &Path,
    folder: &Path,
    address: SocketAddr,
    admin: SocketAddr,
    settings: &[String],
) -> Result<Child> {
    if !binary.exists() {
        bail!(
            "{} is missing: cargo build --release --bin chatd",
            binary.display()
        );
    }
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"))?;
    let mut command = Command::new(binary);
    command.arg("--dev").arg("--data").arg(folder.join("data"));
    command.arg("--listen").arg(address.to_string());
    command.arg("--admin-listen").arg(admin.to_string());
    for setting in settings {
        command
            .arg("--set")
            .arg(setting.replace("{folder}", &folder.display().to_string()));
    }
    command.stdout(Stdio::null()).stderr(log);
    command.spawn().context("chatd cannot be started")
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
