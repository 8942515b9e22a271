//! One replay from the first connection to the verdict.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail};
use chat_client::{Network, Statistics};
use tokio::{sync::watch, task::JoinSet};

use super::{
    cast::{LIVE, Server},
    child::Assignment,
    comparison::{self, Compared},
    faults::{self, Actor, Kill, Killed},
    figures::{Percentiles, Table, plot, seconds},
    ledger::Ledger,
    plan::{Options, Plan, RunIds},
    player::{Done, Player},
    script::Script,
    stage::Stage,
};
use crate::{
    checker::{Checker, Verdict},
    dataset::{self, Origin},
    node::{self, Node},
};

/// Nothing new for so long: the run is given up, and the checker says what is missing.
const STUCK: Duration = Duration::from_secs(90);
/// Players that connect at once.
const CONNECT_AT_ONCE: usize = 64;

/// How to replay.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is played.
    pub options: Options,
    /// Where the dataset is cached.
    pub cache: PathBuf,
    /// Recorded seconds in one second; none: as fast as the server takes it.
    pub speed: Option<f64>,
    /// Kills of the server.
    pub kills: u32,
    /// How long it stays away at one of them.
    pub away: Duration,
    /// Live devices in processes of their own, each killed once.
    pub processes: usize,
    /// Everybody on WebSockets in JSON.
    pub simple: bool,
    /// The program that plays a child: [`super::child::play`] with `--child`.
    pub program: PathBuf,
    /// Where the node's data and the journals stay; a temporary folder if none.
    pub keep: Option<PathBuf>,
    /// Where the plot goes.
    pub plot: Option<PathBuf>,
    /// The node's settings.
    pub node: node::Options,
    /// Says every few seconds how far it is.
    pub talk: bool,
}

/// What came of it.
pub struct Outcome {
    /// Compared with the dataset.
    pub compared: Compared,
    /// For people.
    pub table: Table,
    /// Texts that the server refused because they are empty.
    pub refused: u64,
    /// How many there are.
    pub empty: u64,
    /// The kills.
    pub kills: Vec<Killed>,
    /// Clients that were killed with messages queued on disk.
    pub clients_killed: usize,
}

impl Outcome {
    /// Everything that is off; empty if nothing is.
    #[must_use]
    pub fn objections(&self, settings: &Settings) -> Vec<String> {
        let mut objections = self.compared.complaints.clone();
        if self.compared.report.verdict() != Verdict::Pass {
            objections.push(self.compared.report.to_string());
        }
        if self.compared.report.unknown > settings.processes * 100 {
            objections.push(format!(
                "{} lines without answer",
                self.compared.report.unknown
            ));
        }
        if self.refused != self.empty {
            objections.push(format!(
                "{} refused, {} are empty",
                self.refused, self.empty
            ));
        }
        if self.kills.len() != settings.kills as usize {
            objections.push(format!("{} kills of {}", self.kills.len(), settings.kills));
        }
        if self.clients_killed != settings.processes && settings.kills > 0 {
            objections.push(format!(
                "{} of {} clients were killed with messages queued",
                self.clients_killed, settings.processes
            ));
        }
        objections
    }
}

/// Plays, kills, compares.
///
/// # Errors
/// If it cannot be played at all. What is wrong with what was played stands in the [`Outcome`].
pub async fn run(settings: &Settings) -> anyhow::Result<Outcome> {
    let (dataset, origin) = dataset::obtain(&settings.cache)?;
    if let Origin::Sample { why } = &origin {
        println!("the dataset cannot be had ({why}): a sample of the same shape is played");
    }
    let plan = Arc::new(Plan::new(&dataset, &settings.options));
    drop(dataset);
    let folder = tempfile::tempdir().context("a folder for the replay")?;
    let home = settings
        .keep
        .clone()
        .unwrap_or_else(|| folder.path().to_owned());
    std::fs::create_dir_all(&home).context("the folder of the replay")?;
    let mut options = settings.node.clone();
    options.data = Some(home.join("node"));
    let mut node = tokio::task::block_in_place(|| Node::start_with(options))?;
    let stage = Arc::new(Stage::new(&plan));
    let script = Script::new(
        Arc::clone(&plan),
        run_ids(),
        Arc::clone(&stage),
        settings.speed,
    );
    let server = Server {
        address: node.address(),
        certificate: node.certificate(),
        simple: settings.simple,
    };
    let mut show = Show::begin(settings, script, server, &home).await?;
    let kills = show.play(&mut node, settings).await?;
    let played = stage.start().elapsed();
    let (ledgers, statistics, killed) = show.end().await?;
    let refused = stage.refused.load(Relaxed) + show.children_refused;
    println!("comparing what {} devices have", ledgers.len() * 2);
    let comparing = Instant::now();
    let compared = comparison::compare(&show.script, &show.server, ledgers).await?;
    let deliveries = stage.deliveries();
    if let Some(path) = &settings.plot {
        plot(path, &deliveries, &kills)?;
    }
    let mut table = table(&plan, &compared, &statistics, played);
    if let Some(of) = Percentiles::of(&deliveries) {
        table.row(
            "delivery p50 / p99 / max",
            format!("{:.1} / {:.1} / {:.1} ms", of.p50_ms, of.p99_ms, of.max_ms),
        );
    }
    for kill in &kills {
        table.row(
            "killed at, ready after, working after",
            format!(
                "{}, {}, {}",
                seconds(kill.at),
                seconds(kill.ready),
                seconds(kill.recovered)
            ),
        );
    }
    for (reason, count) in stage.losses() {
        table.row("connections lost", format!("{count}: {reason}"));
    }
    table.row("clients killed with messages queued", killed);
    table.row(
        "empty texts refused",
        format!("{refused} of {}", plan.empty()),
    );
    table.row("synchronised and compared in", seconds(comparing.elapsed()));
    drop(node);
    Ok(Outcome {
        compared,
        table,
        refused,
        empty: plan.empty() as u64,
        kills,
        clients_killed: killed,
    })
}

fn table(plan: &Plan, compared: &Compared, statistics: &Statistics, played: Duration) -> Table {
    let mut table = Table::default();
    let report = &compared.report;
    #[expect(clippy::cast_precision_loss, reason = "counts of a run fit")]
    let ratio = |a: u64, b: u64| a as f64 / b.max(1) as f64;
    table.row("people, conversations, groups", {
        let groups = plan.churn.len();
        format!(
            "{}, {}, {groups} members removed and added again",
            plan.people.len(),
            plan.places.len()
        )
    });
    table.row(
        "messages",
        format!(
            "{} ({} acknowledged, {} refused, {} unknown)",
            report.attempts, report.acknowledged, report.refused, report.unknown
        ),
    );
    table.row(
        "deliveries a send",
        format!("{:.1}", ratio(plan.deliveries(), plan.sends())),
    );
    table.row(
        "events compared, histories read",
        format!("{}, {}", compared.events, compared.conversations),
    );
    table.row("retries", statistics.resent);
    table.row(
        "duplicates suppressed",
        format!(
            "{} by the server, {} by clients",
            statistics.answered_twice, statistics.duplicates
        ),
    );
    table.row("lost", report.lost);
    table.row("violations", report.total());
    table.row(
        "throughput",
        format!(
            "{:.0} sends/s, {:.0} deliveries/s, {} in all",
            report.acknowledged as f64 / played.as_secs_f64(),
            plan.deliveries() as f64 / played.as_secs_f64(),
            seconds(played)
        ),
    );
    table
}

fn run_ids() -> RunIds {
    let start_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
    RunIds {
        start_ms,
        run: rand::random(),
    }
}

/// Everybody who plays.
struct Show {
    script: Script,
    server: Server,
    stop: watch::Sender<bool>,
    players: JoinSet<anyhow::Result<Done>>,
    actors: Vec<Actor>,
    program: PathBuf,
    children_refused: u64,
}

impl Show {
    /// Connects everybody and lets them play.
    async fn begin(
        settings: &Settings,
        script: Script,
        server: Server,
        home: &Path,
    ) -> anyhow::Result<Self> {
        let mut show = Self {
            script,
            server,
            stop: watch::channel(false).0,
            players: JoinSet::new(),
            actors: Vec::new(),
            program: settings.program.clone(),
            children_refused: 0,
        };
        let apart = busiest(&show.script.plan, settings.processes);
        for person in &apart {
            let assignment = Assignment {
                options: settings.options,
                cache: settings.cache.clone(),
                ids: show.script.ids,
                person: *person,
                server: show.server.clone(),
                folder: home.join(format!("client-{person}")),
                speed: settings.speed,
            };
            let process = Some(assignment.start(&show.program)?);
            show.actors.push(Actor {
                assignment,
                process,
                killed_with: None,
                resent_before: 0,
            });
        }
        // Fewer than everybody at once: a herd at the start is not what is measured here.
        let gate = Arc::new(tokio::sync::Semaphore::new(CONNECT_AT_ONCE));
        let network = Network::default();
        let people = show.script.plan.people.len();
        for person in (0..u32::try_from(people).expect("numbered in 32 bits"))
            .filter(|person| !apart.contains(person))
        {
            let (script, stopped) = (show.script.clone(), show.stop.subscribe());
            let name = script.plan.people[person as usize].clone();
            let config = show.server.config(person, &name, LIVE, &network);
            let gate = Arc::clone(&gate);
            show.players.spawn(async move {
                let place = gate.acquire().await.context("the gate is never closed")?;
                let player = Player::join(script, person, config, Ledger::default()).await?;
                drop(place);
                player.play(stopped).await
            });
        }
        Ok(show)
    }

    /// Waits until everything is said and heard, and kills the server on the way.
    async fn play(&mut self, node: &mut Node, settings: &Settings) -> anyhow::Result<Vec<Killed>> {
        let mut due = faults::draw(settings.options.seed, settings.kills, settings.away);
        due.reverse();
        let mut killed = Vec::new();
        let total = self.script.plan.sends();
        let operations = self.operations();
        let mut watch = Watch::new(settings.talk);
        loop {
            self.check(node)?;
            let (settled, operated) = self.progress();
            if settled >= total && operated >= operations {
                break;
            }
            let reached = |kill: &Kill| settled * 1_000 >= total * kill.at_permille;
            if let Some(kill) = due.pop_if(|kill| reached(kill)) {
                if settings.talk {
                    println!("SIGKILL at {settled} of {total} messages");
                }
                let (stage, actors) = (Arc::clone(&self.script.stage), &mut self.actors);
                killed.push(faults::kill_server(node, kill, &stage, actors, &self.program).await?);
                watch.moved();
            }
            if !killed.is_empty() {
                faults::kill_those_with_messages_queued(&mut self.actors, &self.program).await?;
            }
            let seen = self.script.stage.all_seen.load(Relaxed);
            if watch.stuck(settled + operated + seen, || {
                format!("{settled} of {total} messages settled, {seen} deliveries")
            }) {
                println!("nothing moves any more: {}", self.missing());
                return Ok(killed);
            }
            self.pause().await;
        }
        self.everybody_has_it(node, &mut watch).await?;
        Ok(killed)
    }

    /// Waits until every live device has every message it is entitled to.
    async fn everybody_has_it(&mut self, node: &mut Node, watch: &mut Watch) -> anyhow::Result<()> {
        let expected = self.expected()?;
        loop {
            self.check(node)?;
            self.hear_actors();
            let stage = &self.script.stage;
            let missing: u64 = (0..)
                .zip(&expected)
                .map(|(person, expected)| u64::from(expected.saturating_sub(stage.seen(person))))
                .sum();
            if missing == 0 {
                return Ok(());
            }
            let seen = stage.all_seen.load(Relaxed);
            if watch.stuck(seen, || format!("{missing} deliveries to go")) {
                println!("{missing} deliveries do not come");
                return Ok(());
            }
            self.pause().await;
        }
    }

    /// How many messages each person's device must have, as far as the answers tell. Players
    /// still hold their ledgers, so it is counted from what the stage and the journals know.
    fn expected(&self) -> anyhow::Result<Vec<u32>> {
        let mut ledgers = vec![self.script.stage.outcomes()];
        for actor in &self.actors {
            ledgers.push(actor.assignment.ledger(&self.script.plan)?);
        }
        let world = comparison::world(&self.script.plan, &ledgers);
        let checker = Checker::new(&world);
        let people = 0..u32::try_from(world.users).expect("numbered in 32 bits");
        Ok(people
            .map(|person| u32::try_from(checker.expected(person)).unwrap_or(u32::MAX))
            .collect())
    }

    /// Ends all devices and takes their ledgers, by person.
    async fn end(&mut self) -> anyhow::Result<(Vec<Ledger>, Statistics, usize)> {
        self.stop.send_replace(true);
        let mut ledgers: Vec<Ledger> = Vec::new();
        ledgers.resize_with(self.script.plan.people.len(), Ledger::default);
        let mut all = Statistics::default();
        while let Some(done) = self.players.join_next().await {
            let done = done.context("a player")??;
            all.resent += done.statistics.resent;
            all.answered_twice += done.statistics.answered_twice;
            all.duplicates += done.statistics.duplicates;
            ledgers[done.person as usize] = done.ledger;
        }
        let mut killed = 0;
        for actor in &mut self.actors {
            all.resent += actor.resent_before + actor.status().resent;
            killed += usize::from(actor.killed_with.is_some_and(|waiting| waiting > 0));
            if let Some(process) = actor.process.take() {
                process.finish().await?;
            }
            let ledger = actor.assignment.ledger(&self.script.plan)?;
            self.children_refused += ledger.refused.len() as u64;
            ledgers[actor.assignment.person as usize] = ledger;
        }
        Ok((ledgers, all, killed))
    }

    fn operations(&self) -> u64 {
        let groups = self.script.groups.len() as u64;
        groups + 2 * self.script.plan.churn.len() as u64
    }

    fn progress(&self) -> (u64, u64) {
        let stage = &self.script.stage;
        let mut settled = stage.settled.load(Relaxed);
        let mut operated = stage.operations.load(Relaxed);
        for actor in &self.actors {
            settled += actor.status().settled;
            operated += actor.status().operations;
        }
        (settled, operated)
    }

    fn hear_actors(&self) {
        for actor in &self.actors {
            self.script
                .stage
                .set_seen(actor.assignment.person, actor.status().seen);
        }
    }

    /// Fails if a player, a child or the server has ended.
    fn check(&mut self, node: &mut Node) -> anyhow::Result<()> {
        if let Some(ended) = self.players.try_join_next() {
            match ended.context("a player")? {
                Err(error) => return Err(error),
                Ok(done) => bail!("person {} ended too early", done.person),
            }
        }
        for actor in &mut self.actors {
            if let Some(process) = &mut actor.process {
                process.check()?;
            }
        }
        node.check()
    }

    /// Until something changes; children are looked at from time to time.
    async fn pause(&self) {
        let changed = self.script.stage.changed.notified();
        // What comes first; a timeout is no failure here.
        let _looked = tokio::time::timeout(Duration::from_millis(20), changed)
            .await
            .is_ok();
        // Not at every single message.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    fn missing(&self) -> String {
        let outcomes = self.script.stage.outcomes();
        let apart: Vec<u32> = self
            .actors
            .iter()
            .map(|actor| actor.assignment.person)
            .collect();
        let open: Vec<String> = (0..)
            .zip(&self.script.plan.lines)
            .filter(|(number, line)| !outcomes.settled(*number) && !apart.contains(&line.sender))
            .take(20)
            .map(|(number, line)| {
                format!(
                    "line {number} ({} of thread {})",
                    line.position, line.thread
                )
            })
            .collect();
        let lost = self.script.stage.losses();
        format!(
            "no answer for {}; connections lost: {lost:?}",
            open.join(", ")
        )
    }
}

/// Those who say most, without the very first: they are killed, and their share is to be
/// neither the whole nor nothing.
fn busiest(plan: &Plan, count: usize) -> Vec<u32> {
    let mut lines = vec![0_u32; plan.people.len()];
    for line in &plan.lines {
        lines[line.sender as usize] += 1;
    }
    let mut people: Vec<u32> = (0..u32::try_from(lines.len()).expect("numbered")).collect();
    people.sort_by_key(|person| (u32::MAX - lines[*person as usize], *person));
    people.into_iter().skip(3).take(count).collect()
}

/// Notices when nothing moves, and says how far it is.
struct Watch {
    last: u64,
    moved: Instant,
    said: Instant,
    talk: bool,
}

impl Watch {
    fn new(talk: bool) -> Self {
        Self {
            last: 0,
            moved: Instant::now(),
            said: Instant::now(),
            talk,
        }
    }

    fn moved(&mut self) {
        self.moved = Instant::now();
    }

    fn stuck(&mut self, now: u64, text: impl FnOnce() -> String) -> bool {
        if now != self.last {
            self.last = now;
            self.moved();
        }
        if self.talk && self.said.elapsed() > Duration::from_secs(5) {
            self.said = Instant::now();
            println!("{}", text());
        }
        self.moved.elapsed() > STUCK
    }
}

/// The settings of the node of a replay as fast as it goes: a person who says a tenth of
/// everything must not be slowed down to the rate of a person. The rest is the default.
#[must_use]
pub fn node_options() -> node::Options {
    let set = [
        "limits.sends_per_second=1000000",
        "limits.sends_burst=1000000",
        "limits.new_inboxes_per_hour=1000000000",
    ];
    node::Options {
        arguments: set
            .iter()
            .flat_map(|set| ["--set".into(), (*set).into()])
            .collect(),
        ..node::Options::default()
    }
}
