//! A `chatd` process on free ports, with its data in a folder of its own.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Nothing here takes longer unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Small files: a test's disk is not a node's. Ports are those that are free.
pub(crate) const SETTINGS: [&str; 7] = [
    "log.file_bytes=4194304",
    "log.budget_bytes=33554432",
    "cluster.shards=4",
    "log.stop_free_bytes=0",
    "log.resume_free_bytes=0",
    "listen=127.0.0.1:0",
    "admin.listen=127.0.0.1:0",
];

pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chatd"));
    command
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs `chatd` until it ends; (exit code, what it said). One that does not is killed:
/// then there is no exit code.
pub(crate) fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let mut child = command().args(arguments).spawn().unwrap();
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > PATIENCE {
            child.kill().unwrap();
        }
        std::thread::yield_now();
    }
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// Runs a `chatd` with `--dev` and the settings of [`Node`] on this data directory, which
/// it is expected to refuse.
pub(crate) fn run_on(data: &Path, settings: &[&str]) -> (Option<i32>, String) {
    let data = data.display().to_string();
    let mut arguments = vec!["--dev", "--data", &data];
    for setting in SETTINGS.iter().chain(settings) {
        arguments.extend(["--set", setting]);
    }
    run(&arguments)
}

pub(crate) struct Node {
    child: Child,
    pub(crate) folder: TempDir,
    pub(crate) clients: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Node {
    /// A node with `--dev` and these settings.
    pub(crate) fn dev(settings: &[&str]) -> Self {
        Self::start(&[&["dev=true"], settings].concat())
    }

    pub(crate) fn start(settings: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), settings)
    }

    pub(crate) fn start_in(folder: TempDir, settings: &[&str]) -> Self {
        let node = Self::spawn(folder, settings);
        node.until(|| node.get("/readyz").0 == 200);
        node
    }

    /// A node that listens, whether or not its shards will ever serve.
    pub(crate) fn spawn(folder: TempDir, settings: &[&str]) -> Self {
        Self::listening(launch(&folder, settings, command()), folder)
    }

    /// A node that another command starts, such as a shell that lowers a limit.
    pub(crate) fn by(command: Command, settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::listening(launch(&folder, settings, command), folder)
    }

    /// A node with `--dev` and a planted panic, that listens.
    pub(crate) fn planted(folder: TempDir, planted: &str) -> Self {
        let mut command = command();
        command.env("CHATD_PLANTED_PANIC", planted);
        Self::listening(launch(&folder, &["dev=true"], command), folder)
    }

    /// A node that has only begun to start: its admin port answers, for clients it has none.
    pub(crate) fn starting(folder: TempDir, settings: &[&str]) -> Self {
        let child = launch(&folder, settings, command());
        let mut node = Self {
            child,
            clients: SocketAddr::from(([0, 0, 0, 0], 0)),
            admin: SocketAddr::from(([0, 0, 0, 0], 0)),
            folder,
        };
        let admin = |log: String| {
            let line = log
                .lines()
                .find(|line| line.contains("the admin port answers"))?;
            line.split("address=").nth(1)?.trim().parse().ok()
        };
        node.until(|| admin(node.log()).is_some());
        node.admin = admin(node.log()).unwrap();
        node
    }

    /// Waits until it says where it listens.
    fn listening(mut child: Child, folder: TempDir) -> Self {
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (mut clients, mut admin) = (None, None);
        let mut said = String::new();
        for line in stdout.lines() {
            let line = line.unwrap();
            said.push_str(&line);
            said.push('\n');
            let address = |prefix: &str| {
                let rest = line.split_once(prefix)?.1;
                rest.split(['/', ' ']).next()?.parse::<SocketAddr>().ok()
            };
            clients = clients.or(address("ws://")).or(address("wss://"));
            admin = admin.or(address("http://"));
            if line.contains("data   ") {
                break;
            }
        }
        let (Some(clients), Some(admin)) = (clients, admin) else {
            panic!(
                "chatd did not start:\n{said}{}",
                read(&folder.path().join("log"))
            );
        };
        Self {
            child,
            folder,
            clients,
            admin,
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn log(&self) -> String {
        read(&self.folder.path().join("log"))
    }

    /// GET on the admin port.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        get(self.admin, path, "")
    }

    /// The value of a metric with its labels, 0 if it is not there.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").1;
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
            .unwrap_or(0.0)
    }

    /// Asks until it is so.
    pub(crate) fn until(&self, what: impl Fn() -> bool) {
        let began = Instant::now();
        while !what() {
            assert!(
                began.elapsed() < PATIENCE,
                "waited in vain; the log:\n{}",
                self.log()
            );
            std::thread::yield_now();
        }
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let text = read(&format!("/proc/{}/statm", self.child.id()).into());
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }

    pub(crate) fn terminate(&self) {
        let pid = i32::try_from(self.child.id()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Ends it as an operator does, and gives its folder.
    pub(crate) fn stop(mut self) -> TempDir {
        self.terminate();
        assert_eq!(self.wait().code(), Some(0), "{}", self.log());
        self.kill()
    }

    /// Kills it as a power cut does, and gives its folder.
    pub(crate) fn kill(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }
}

fn launch(folder: &TempDir, settings: &[&str], mut command: Command) -> Child {
    command.arg("--data").arg(folder.path().join("data"));
    for setting in SETTINGS.iter().chain(settings) {
        command.arg("--set").arg(setting);
    }
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    command.stderr(log).spawn().unwrap()
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("the node's log:\n{}", self.log());
        }
    }
}

fn read(path: &PathBuf) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// One HTTP request; (status, everything that came back).
pub(crate) fn get(address: SocketAddr, path: &str, headers: &str) -> (u16, String) {
    let host = if headers.to_ascii_lowercase().contains("host:") {
        String::new()
    } else {
        format!("Host: {address}\r\n")
    };
    let request = format!("GET {path} HTTP/1.1\r\n{host}Connection: close\r\n{headers}\r\n");
    let text = raw(address, request.as_bytes());
    let status = text
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0);
    (status, text)
}

/// What comes back for these bytes until the other side closes.
pub(crate) fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // A reset after an answer is an end, too.
    drop(stream.read_to_end(&mut answer));
    String::from_utf8_lossy(&answer).into_owned()
}
