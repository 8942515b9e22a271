use std::sync::mpsc;

use chat_wire::ids::ShardId;
use crossbeam_channel::bounded;

use super::*;

/// A watch whose node writes down what would have ended it.
fn watch() -> (Arc<Watch>, mpsc::Receiver<Ended>) {
    let (told, ends) = mpsc::sync_channel(16);
    let end = move |ended: &Ended| told.send(ended.clone()).unwrap();
    (Watch::new(end), ends)
}

/// A thread that does what it is told, one thing after the other.
struct Puppet {
    orders: Option<Sender<Box<dyn FnOnce() + Send>>>,
    done: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Puppet {
    fn new(watch: &Arc<Watch>, role: Role) -> Self {
        let (orders, queue) = bounded::<Box<dyn FnOnce() + Send>>(1);
        let (finished, done) = bounded(1);
        let run = move || {
            // Not `receive`: what it says of itself is what the orders say.
            while let Ok(order) = queue.recv() {
                order();
                finished.send(()).unwrap();
            }
        };
        Self {
            orders: Some(orders),
            done,
            thread: Some(watch.spawn(role, Arc::default(), run).unwrap()),
        }
    }

    fn does(&self, order: impl FnOnce() + Send + 'static) {
        self.orders.as_ref().unwrap().send(Box::new(order)).unwrap();
        self.done.recv().unwrap();
    }

    fn says(&self, doing: Doing) {
        self.does(move || says(doing));
    }

    /// Ends the thread; true if it panicked.
    fn ends(&mut self) -> bool {
        self.orders = None;
        self.thread.take().unwrap().join().is_err()
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.orders = None;
            drop(thread.join());
        }
    }
}

const LATER: u64 = 1_000_000 + STUCK_MS;

/// What is wrong a minute after somebody looked.
fn after_a_minute(watch: &Watch) -> Vec<Trouble> {
    assert_eq!(watch.look(1_000_000), []);
    assert_eq!(watch.look(LATER - 1), []);
    watch.look(LATER)
}

#[test]
fn what_a_beacon_says_can_be_read() {
    for doing in [
        Doing::Waits,
        Doing::Works,
        Doing::Disk,
        Doing::Ended,
        Doing::Sends(Role::Shards(0)),
        Doing::Sends(Role::Shards(255)),
        Doing::Sends(Role::Log),
        Doing::Sends(Role::Flush),
        Doing::Sends(Role::Pool),
        Doing::Sends(Role::Reader(3)),
    ] {
        assert_eq!(Doing::of(doing.bits()), doing);
        assert!(doing.bits() < 1 << BELOW_COUNT);
    }
}

#[test]
fn a_thread_with_work_that_stood_still_for_a_minute_is_stuck() {
    let (watch, _ends) = watch();
    let thread = Puppet::new(&watch, Role::Shards(1));
    thread.says(Doing::Works);
    assert_eq!(
        after_a_minute(&watch),
        [Trouble::Stuck(Role::Shards(1), 60)]
    );
    watch.ask_to_end();
}

#[test]
fn a_thread_without_work_is_not_stuck_however_long_it_waits() {
    let (watch, _ends) = watch();
    let thread = Puppet::new(&watch, Role::Flush);
    thread.says(Doing::Waits);
    assert_eq!(after_a_minute(&watch), []);
    watch.ask_to_end();
}

#[test]
fn a_thread_in_a_disk_call_is_not_stuck_however_slow_the_disk_is() {
    let (watch, _ends) = watch();
    let log = Puppet::new(&watch, Role::Log);
    log.does(disk_begins);
    assert_eq!(after_a_minute(&watch), []);
    // And the minute begins again after it.
    log.does(disk_ends);
    assert_eq!(watch.look(LATER + 1), []);
    assert_eq!(watch.look(LATER + STUCK_MS), []);
    assert_eq!(
        watch.look(LATER + 1 + STUCK_MS),
        [Trouble::Stuck(Role::Log, 60)]
    );
    watch.ask_to_end();
}

#[test]
fn threads_behind_one_that_waits_for_the_disk_are_not_stuck() {
    let (watch, _ends) = watch();
    let shards = Puppet::new(&watch, Role::Shards(0));
    let flush = Puppet::new(&watch, Role::Flush);
    let log = Puppet::new(&watch, Role::Log);
    shards.says(Doing::Sends(Role::Flush));
    flush.says(Doing::Sends(Role::Log));
    log.says(Doing::Disk);
    assert_eq!(after_a_minute(&watch), []);
    // Nor when the disk has just answered, with the next call not begun.
    log.says(Doing::Works);
    assert_eq!(watch.look(LATER + 1), []);
    watch.ask_to_end();
}

#[test]
fn threads_behind_one_that_hangs_are_stuck_with_it() {
    let (watch, _ends) = watch();
    let shards = Puppet::new(&watch, Role::Shards(0));
    let log = Puppet::new(&watch, Role::Log);
    shards.says(Doing::Sends(Role::Log));
    log.says(Doing::Works);
    assert_eq!(
        after_a_minute(&watch),
        [
            Trouble::Stuck(Role::Shards(0), 60),
            Trouble::Stuck(Role::Log, 60)
        ]
    );
    watch.ask_to_end();
}

#[test]
fn threads_that_wait_for_each_other_are_stuck() {
    let (watch, _ends) = watch();
    let shards = Puppet::new(&watch, Role::Shards(0));
    let log = Puppet::new(&watch, Role::Log);
    shards.says(Doing::Sends(Role::Log));
    log.says(Doing::Sends(Role::Shards(0)));
    assert_eq!(after_a_minute(&watch).len(), 2);
    watch.ask_to_end();
}

#[test]
fn a_thread_that_makes_pass_after_pass_under_load_or_replay_is_not_stuck() {
    let (watch, _ends) = watch();
    let thread = Puppet::new(&watch, Role::Shards(0));
    let (work, queue) = bounded::<()>(4);
    let now = |minutes: u64| 1_000_000 + minutes * STUCK_MS;
    for minute in 0..5 {
        // Whenever it is looked at it works.
        work.send(()).unwrap();
        let queue = queue.clone();
        thread.does(move || receive(&queue).unwrap());
        assert_eq!(watch.look(now(minute)), []);
    }
    assert_eq!(watch.look(now(5)), [Trouble::Stuck(Role::Shards(0), 60)]);
    watch.ask_to_end();
}

#[test]
fn a_thread_that_panics_is_told_with_its_place_before_anything_is_unwound() {
    struct Unwound(Arc<AtomicBool>);
    impl Drop for Unwound {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    let unwound = Arc::new(AtomicBool::new(false));
    let (told, ends) = mpsc::sync_channel(1);
    let watch = {
        let unwound = Arc::clone(&unwound);
        Watch::new(move |ended| {
            let late = unwound.load(Ordering::Acquire);
            told.send((ended.clone(), late)).unwrap();
        })
    };
    let place = Place {
        shard: ShardId(7),
        position: 12,
        served: true,
    };
    let kept = Unwound(Arc::clone(&unwound));
    let thread = watch.spawn(Role::Shards(2), Arc::default(), move || {
        let _kept = kept;
        about(Some(place));
        panic!("a constant");
    });
    assert!(thread.unwrap().join().is_err());
    let (ended, late) = ends.recv().unwrap();
    assert!(!late && unwound.load(Ordering::Acquire));
    assert_eq!(
        (ended.role, ended.text, ended.place),
        (Role::Shards(2), Some("a constant"), Some(place))
    );
    assert!(ended.at.unwrap().contains("tests.rs:"));
    assert_eq!(watch.look(0), [Trouble::Ended(Role::Shards(2))]);
}

#[test]
fn the_text_of_a_panic_that_quotes_somebody_is_not_told() {
    let (watch, ends) = watch();
    let text = String::from("a message of Alice's");
    let thread = watch.spawn(Role::Log, Arc::default(), move || panic!("in {text}"));
    assert!(thread.unwrap().join().is_err());
    let ended = ends.recv().unwrap();
    assert_eq!(ended.text, None);
    assert!(!ended.to_string().contains("Alice"), "{ended}");
}

#[test]
fn a_thread_that_returns_unasked_ends_the_node_and_one_that_was_asked_does_not() {
    let (watch, ends) = watch();
    let mut flush = Puppet::new(&watch, Role::Flush);
    assert!(!flush.ends());
    let ended = ends.recv().unwrap();
    assert_eq!((ended.role, ended.at), (Role::Flush, None));
    assert_eq!(watch.look(0), [Trouble::Ended(Role::Flush)]);
    let mut pool = Puppet::new(&watch, Role::Pool);
    watch.ask_to_end();
    assert!(!pool.ends());
    assert!(ends.try_recv().is_err());
    assert_eq!(watch.look(1), []);
}

#[tokio::test]
async fn a_panic_in_a_task_that_the_node_needs_ends_it_and_in_another_one_does_not() {
    let (watch, ends) = watch();
    let needed = tokio::spawn(watch.task("port", async { panic!("needed") }));
    assert!(needed.await.is_err());
    assert_eq!(ends.recv().unwrap().role, Role::Task("port"));
    let other = tokio::spawn(async { panic!("a connection's") });
    assert!(other.await.is_err());
    assert!(ends.try_recv().is_err());
}
