//! A real node for a test: the built `chatd` in a folder of its own, on free ports of
//! loopback, that can be killed and started again.
//!
//! The binary is the one beside the running executable, built by cargo first unless
//! `CHAT_TESTS_BUILT` says that this was done: a test against yesterday's binary proves nothing.
//! Known limit: a port is chosen by binding and releasing it, so another process can
//! take it in between; [`Node::start`] then tries others.

use std::{
    ffi::OsString,
    fs::File,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a node may take until it is ready.
pub const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a drained node may take to end.
pub const DRAINED_WITHIN: Duration = Duration::from_secs(40);
/// Between two looks at something that tells nobody when it changes.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Times other ports are tried.
const PORT_TRIES: u32 = 5;

/// How a node is to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--dev`.
    pub dev: bool,
    /// Arguments after the harness' own.
    pub arguments: Vec<OsString>,
    /// Its environment, besides the test's.
    pub environment: Vec<(OsString, OsString)>,
    /// Put before the command: strace, for instance.
    pub wrapper: Vec<OsString>,
    /// Its data; a temporary folder if none is named.
    pub data: Option<PathBuf>,
    /// The settings file's text, if it has one.
    pub settings: Option<String>,
    /// Another build of `chatd`; this workspace's if none is named.
    pub binary: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dev: true,
            arguments: Vec::new(),
            environment: Vec::new(),
            wrapper: Vec::new(),
            data: None,
            settings: None,
            binary: None,
        }
    }
}

/// A node, running or stopped. It is killed when it is dropped.
pub struct Node {
    options: Options,
    folder: tempfile::TempDir,
    data: PathBuf,
    port: u16,
    admin_port: u16,
    child: Option<Child>,
    starts: u32,
}

impl Node {
    /// Starts a node with `--dev` and waits until it is ready.
    ///
    /// # Errors
    /// If it does not become ready; the error ends with its log.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(Options::default())
    }

    /// Starts a node and waits until it is ready.
    ///
    /// # Errors
    /// If it does not become ready; the error ends with its log.
    pub fn start_with(options: Options) -> anyhow::Result<Self> {
        let mut node = Self::prepare(options)?;
        let mut tries = 0;
        loop {
            match node.restart() {
                Err(error) if tries < PORT_TRIES && node.log().contains("in use") => {
                    tries += 1;
                    drop(error);
                    node.kill();
                    (node.port, node.admin_port) = (free_port()?, free_port()?);
                }
                Err(error) => return Err(error),
                Ok(()) => return Ok(node),
            }
        }
    }

    /// A node that does not run yet.
    ///
    /// # Errors
    /// If there is no binary, no folder or no port for it.
    pub fn prepare(options: Options) -> anyhow::Result<Self> {
        binary("chatd")?;
        let folder = tempfile::tempdir().context("a folder for the node")?;
        let data = options
            .data
            .clone()
            .unwrap_or_else(|| folder.path().join("data"));
        Ok(Self {
            data,
            folder,
            port: free_port()?,
            admin_port: free_port()?,
            child: None,
            starts: 0,
            options,
        })
    }

    /// Starts the stopped node on its old ports and data, and waits until it is ready.
    ///
    /// # Errors
    /// If it does not become ready; the error ends with its log.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.launch()?;
        self.wait_ready(READY_WITHIN)
    }

    /// Starts the process and does not wait.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        assert!(self.child.is_none(), "the node runs already");
        self.starts += 1;
        let log = File::create(self.log_path()).context("the node's log")?;
        let mut words: Vec<OsString> = self.options.wrapper.clone();
        let build = self.options.binary.clone();
        words.push(build.map_or_else(|| binary("chatd"), Ok)?.into());
        if self.options.dev {
            words.push("--dev".into());
        }
        words.extend(["--data".into(), self.data.clone().into()]);
        words.extend(["--listen".into(), format!("127.0.0.1:{}", self.port).into()]);
        words.extend(["--admin-listen".into(), self.admin().to_string().into()]);
        if let Some(text) = &self.options.settings {
            let path = self.folder.path().join("chatd.yaml");
            std::fs::write(&path, text).context("the settings file")?;
            words.extend(["--config".into(), path.into()]);
        }
        words.extend(self.options.arguments.iter().cloned());
        let child = Command::new(&words[0])
            .args(&words[1..])
            .envs(self.options.environment.iter().cloned())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("the node's log")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} does not start", words[0].display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until `/readyz` says yes. Nothing tells from outside when that changes,
    /// so this looks again and again, for a bounded time.
    ///
    /// # Errors
    /// If it ends or is not ready in time; the error ends with its log.
    pub fn wait_ready(&mut self, within: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                self.child = None;
                bail!(
                    "chatd ended with {status} before it was ready:\n{}",
                    self.log()
                );
            }
            match self.get("/readyz") {
                Ok((200, _)) => return Ok(()),
                Ok((status, body)) if Instant::now() > deadline => {
                    bail!("/readyz still says {status} {body}:\n{}", self.log())
                }
                Err(error) if Instant::now() > deadline => {
                    bail!("/readyz does not answer ({error}):\n{}", self.log())
                }
                _ => std::thread::sleep(LOOK_AGAIN),
            }
        }
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // A wrapper's child must go too, so the whole of it is named by the port it holds.
            if !self.options.wrapper.is_empty() {
                for pid in children(child.id()) {
                    signal(pid, Signal::KILL);
                }
            }
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// If it does not end within [`DRAINED_WITHIN`].
    pub fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        let id = self.child.as_ref().context("the node does not run")?.id();
        signal(id, Signal::TERM);
        self.wait_exit(DRAINED_WITHIN)
    }

    /// Waits until the process ends by itself.
    ///
    /// # Errors
    /// If it does not, within the time.
    pub fn wait_exit(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + within;
        let child = self.child.as_mut().context("the node does not run")?;
        loop {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("chatd has not ended within {within:?}:\n{}", self.log());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Fails if the process has ended by itself.
    ///
    /// # Errors
    /// With its log.
    pub fn check(&mut self) -> anyhow::Result<()> {
        if let Some(child) = &mut self.child
            && let Some(status) = child.try_wait()?
        {
            self.child = None;
            bail!("chatd ended with {status}:\n{}", self.log());
        }
        Ok(())
    }

    /// Whether the process runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// The process that is `chatd` itself, also under a wrapper.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        let id = self.child.as_ref()?.id();
        if self.options.wrapper.is_empty() {
            return Some(id);
        }
        children(id).first().copied()
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Where the admin port is.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.admin_port).into()
    }

    /// The address for a WebSocket client.
    #[must_use]
    pub fn websocket(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    /// The address for a QUIC client.
    #[must_use]
    pub fn quic(&self) -> String {
        format!("quic://127.0.0.1:{}", self.port)
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A folder that goes away with the node.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The certificate that clients of a `--dev` node trust.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.data.join("tls").join("cert.pem")
    }

    /// Changes how it starts the next time.
    pub fn options_mut(&mut self) -> &mut Options {
        &mut self.options
    }

    /// What the last process wrote, at most its last 64 KiB.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log_path()).unwrap_or_default();
        let from = bytes.len().saturating_sub(64 * 1024);
        String::from_utf8_lossy(&bytes[from..]).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.folder
            .path()
            .join(format!("chatd-{}.log", self.starts))
    }

    /// GET from the admin port: status and body.
    ///
    /// # Errors
    /// If nobody answers.
    pub fn get(&self, path: &str) -> std::io::Result<(u16, String)> {
        http_get(self.admin(), path)
    }

    /// The sum of a metric over its labels; 0 if it does not stand in `/metrics`.
    ///
    /// # Errors
    /// If nobody answers.
    pub fn metric(&self, name: &str) -> std::io::Result<f64> {
        let (_, text) = self.get("/metrics")?;
        Ok(text
            .lines()
            .filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'))
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!(
                "--- the log of the node on port {} ---\n{}",
                self.port,
                self.log()
            );
        }
    }
}

/// One GET without keeping the connection.
///
/// # Errors
/// If nobody answers within two seconds.
pub fn http_get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let limit = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    // Metrics of a node are far below this; more is not read.
    stream.take(8 * 1024 * 1024).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .unwrap_or(0);
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    Ok((
        status,
        if chunked {
            unchunk(body)
        } else {
            body.to_owned()
        },
    ))
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let Some(chunk) = rest.get(..size).filter(|chunk| !chunk.is_empty()) else {
            break;
        };
        whole.push_str(chunk);
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}

/// Sends a signal to a process that this test started.
pub fn signal(process: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) {
        // It may be gone already, which is what a signal wants.
        let _gone = kill_process(pid, signal).is_err();
    }
}

/// Direct children of a process.
fn children(process: u32) -> Vec<u32> {
    let path = format!("/proc/{process}/task/{process}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// A port that is free for TCP and UDP now.
///
/// # Errors
/// If the system has none.
pub fn free_port() -> anyhow::Result<u16> {
    for _ in 0..100 {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a free port")?;
        let port = tcp.local_addr()?.port();
        if UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free for TCP and UDP")
}

/// A binary of this workspace, or `examples/…`, beside the running executable.
///
/// # Errors
/// If cargo cannot build it.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    let executable = std::env::current_exe().context("the path of this program")?;
    let mut folder = executable.parent().context("a folder of this program")?;
    if folder.ends_with("deps") {
        folder = folder.parent().context("the target folder")?;
    }
    let path = folder.join(name);
    let release = folder.ends_with("release");
    let built = BUILT.get_or_init(|| {
        if std::env::var_os("CHAT_TESTS_BUILT").is_some() {
            return Ok(());
        }
        build(release)
    });
    if let Err(error) = built {
        bail!("{name} cannot be built: {error}");
    }
    if !path.is_file() {
        bail!(
            "there is no {}: run `cargo build --bins` first",
            path.display()
        );
    }
    Ok(path)
}

fn build(release: bool) -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args([
            "build",
            "--quiet",
            "--locked",
            "--package",
            "chatd",
            "--package",
            "chatctl",
            "--package",
            "chat-client",
            "--bins",
            "--examples",
        ])
        .current_dir(workspace());
    if release {
        command.arg("--release");
    }
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// The root of this workspace.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests stand one below the root")
}
