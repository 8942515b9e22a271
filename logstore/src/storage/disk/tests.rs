//! What the real disk refuses, sets right, and can still open when nothing else can be.

use super::*;
use crate::{
    engine::{Append, Options, open},
    log_index::LogEntry,
    replicas::ReplicaKey,
};
use std::{os::unix::fs::symlink, process::Command};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn nobody_else_can_read_what_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("data");
    let disk = Disk::new(&root).unwrap();
    disk.create_dir("wal").unwrap();
    disk.create("wal/a").unwrap();
    assert_eq!((mode(&root), mode(&root.join("wal"))), (0o700, 0o700));
    assert_eq!(mode(&root.join("wal/a")), 0o600);
}

#[test]
fn modes_that_are_too_wide_are_set_back_when_something_is_opened() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::create_dir(root.join("wal")).unwrap();
    fs::write(root.join("wal/a"), b"1").unwrap();
    for path in ["", "wal", "wal/a"] {
        set_mode(&root.join(path), 0o775);
    }
    let disk = Disk::new(root).unwrap();
    disk.create_dir("wal").unwrap();
    disk.read("wal/a").unwrap();
    assert_eq!((mode(root), mode(&root.join("wal"))), (0o700, 0o700));
    assert_eq!(mode(&root.join("wal/a")), 0o600);
}

#[test]
fn what_another_user_owns_is_refused_with_what_to_do() {
    if !rustix::process::geteuid().is_root() {
        // Only root can give a file away.
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("data");
    let disk = Disk::new(&root).unwrap();
    disk.create("a").unwrap();
    let other = Some(12_345);
    std::os::unix::fs::chown(root.join("a"), other, None).unwrap();
    let refused = disk.open("a").err().unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    std::os::unix::fs::chown(&root, other, None).unwrap();
    let refused = Disk::new(&root).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    let text = refused.to_string();
    assert!(
        text.contains("user 12345") && text.contains("name a folder inside"),
        "{text}"
    );
}

#[test]
fn no_symbolic_link_is_followed_below_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let outside = directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("a"), b"theirs").unwrap();
    let root = directory.path().join("data");
    // The directory itself may be a link.
    let link = directory.path().join("link");
    symlink(&root, &link).unwrap();
    fs::create_dir(&root).unwrap();
    let disk = Disk::new(&link).unwrap();
    symlink(outside.join("a"), root.join("file")).unwrap();
    symlink(&outside, root.join("folder")).unwrap();
    let refused = [
        disk.open("file").err(),
        disk.map("file").err(),
        disk.read("folder/a").err(),
        disk.open("folder/a").err(),
        disk.create("folder/b").err(),
        disk.rename("folder/a", "c").err(),
        disk.remove("folder/a").err(),
        disk.list("folder").err(),
        disk.create_dir("folder/new").err(),
        disk.sync_dir("folder").err(),
    ];
    for (number, error) in refused.into_iter().enumerate() {
        let text = error
            .unwrap_or_else(|| panic!("{number} was done"))
            .to_string();
        assert!(text.contains("symbolic link"), "{number}: {text}");
    }
    assert!(disk.create("file").is_err());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::read(outside.join("a")).unwrap(), b"theirs");
    disk.create("own").unwrap();
    assert!(root.join("own").exists());
}

#[test]
fn a_file_that_is_mapped_cannot_be_written() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::new(directory.path()).unwrap();
    let written = disk.create("a").unwrap();
    written.write_at(b"0123456789", 0).unwrap();
    let busy = io::ErrorKind::ExecutableFileBusy;
    assert_eq!(disk.map("a").err().unwrap().kind(), busy);
    drop(written);
    let map = disk.map("a").unwrap();
    assert_eq!(disk.open("a").err().unwrap().kind(), busy);
    let mut copy = [0; 4];
    assert!(disk.read("a").unwrap().copy(&mut copy, 6) && copy == *b"6789");
    // Another file of that name is another file.
    disk.create("b").unwrap().write_at(b"new", 0).unwrap();
    disk.rename("b", "a").unwrap();
    drop(disk.open("a").unwrap());
    assert!(map.copy(&mut copy, 0) && copy == *b"0123");
    drop(map);
}

/// Run by the test below in a process of its own, which has no descriptors left.
#[test]
#[ignore = "it takes all descriptors of its process"]
fn write_a_log_without_descriptors() {
    let disk = Disk::new(std::env::var_os("DATA_DIRECTORY").unwrap()).unwrap();
    let descriptors = disk.descriptors();
    let options = Options {
        file_bytes: 64 << 10,
        budget_bytes: 6400 << 10,
        stop_free_bytes: 0,
        resume_free_bytes: 0,
        ..Options::default()
    };
    let mut log = open(Arc::new(disk), options).unwrap().log;
    let key = ReplicaKey {
        shard: 1,
        replica: log.next_replica(),
    };
    log.commit(&[Append::CreateReplica { key }]).unwrap();
    let limit = rustix::process::Rlimit {
        current: Some(128),
        maximum: Some(128),
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let mut position = 0;
    for round in 1..=2 {
        let mut taken = Vec::new();
        while let Ok(one) = fs::File::open("/dev/null") {
            taken.push(one);
        }
        assert!(
            taken.len() > 32,
            "{} were free in round {round}",
            taken.len()
        );
        let files = log.stats().live_files;
        while log.stats().live_files < files + 6 {
            position += 1;
            let entry = LogEntry {
                position,
                term: 1,
                kind: 0,
                payload: vec![7; 20_000].into(),
            };
            let entries = vec![entry];
            log.commit(&[Append::Entries { key, entries }]).unwrap();
        }
        assert!(descriptors.shortages() >= round, "it was not short");
        // Sockets come and go: what is free again fills the reserve.
        drop(taken);
    }
}

/// Clients that took all descriptors stopped a node when its log had to take a file.
#[test]
fn a_log_takes_its_next_file_when_sockets_have_taken_all_descriptors() {
    let directory = tempfile::tempdir().unwrap();
    let ended = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "storage::disk::tests::write_a_log_without_descriptors",
        ])
        .env("DATA_DIRECTORY", directory.path())
        .output()
        .unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let ran = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(ran.contains("1 passed"), "{ran}");
}
