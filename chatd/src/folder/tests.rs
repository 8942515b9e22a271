use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
};

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_is_made_is_ours_alone() {
    let at = tempfile::tempdir().unwrap();
    let folder = Folder::open(&at.path().join("deep/data")).unwrap();
    folder.open_or_create("a").unwrap();
    folder.replace("b", b"bytes").unwrap();
    folder.folder("tls").unwrap().replace("key", b"k").unwrap();
    for (name, wanted) in [("", 0o700), ("a", 0o600), ("b", 0o600), ("tls", 0o700)] {
        assert_eq!(mode(&folder.path().join(name)), wanted, "{name}");
    }
    assert_eq!(mode(&folder.path().join("tls/key")), 0o600);
    assert_eq!(folder.read("b", 5).unwrap().unwrap(), b"bytes");
    assert_eq!(folder.read("none", 5).unwrap(), None);
    let long = folder.read("b", 4).unwrap_err();
    assert_eq!(long.kind(), io::ErrorKind::FileTooLarge);
}

#[test]
fn modes_that_a_volume_or_an_older_version_left_too_wide_are_set_back() {
    let at = tempfile::tempdir().unwrap();
    let path = at.path().join("data");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("SECRET"), "s").unwrap();
    set_mode(&path, 0o2775);
    set_mode(&path.join("SECRET"), 0o664);
    let folder = Folder::open(&path).unwrap();
    assert_eq!(mode(&path), 0o700);
    assert_eq!(folder.read("SECRET", 1).unwrap().unwrap(), b"s");
    assert_eq!(mode(&path.join("SECRET")), 0o600);
}

#[test]
fn the_directory_may_be_a_link_and_nothing_in_it_may() {
    let at = tempfile::tempdir().unwrap();
    let (real, link) = (at.path().join("real"), at.path().join("link"));
    fs::create_dir(&real).unwrap();
    symlink(&real, &link).unwrap();
    let folder = Folder::open(&link).unwrap();
    folder.replace("a", b"x").unwrap();
    assert_eq!(fs::read(real.join("a")).unwrap(), b"x");

    let outside = at.path().join("outside");
    fs::write(&outside, "theirs").unwrap();
    for name in ["out", "new.new"] {
        symlink(&outside, real.join(name)).unwrap();
    }
    symlink(at.path(), real.join("tls")).unwrap();
    let read = folder.read("out", 9).unwrap_err();
    assert!(matches!(read, FolderError::Link { .. }), "{read}");
    let opened = folder.open_or_create("out").unwrap_err();
    assert!(opened.to_string().contains("symbolic link"), "{opened}");
    assert!(folder.folder("tls").is_err());
    // In the place of a link there is a file afterwards.
    folder.replace("out", b"ours").unwrap();
    folder.replace("new", b"ours").unwrap();
    assert_eq!(folder.read("out", 9).unwrap().unwrap(), b"ours");
    assert_eq!(fs::read(&outside).unwrap(), b"theirs");
}

#[test]
fn what_is_no_plain_file_is_refused_and_not_waited_for() {
    let at = tempfile::tempdir().unwrap();
    let pipe = at.path().join("LOCK");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, FILE_MODE, 0).unwrap();
    let folder = Folder::open(at.path()).unwrap();
    let refused = folder.open_or_create("LOCK").unwrap_err();
    assert!(matches!(refused, FolderError::Link { .. }), "{refused}");
}

#[test]
fn a_directory_of_somebody_else_is_refused_with_the_advice_to_name_one_inside() {
    if !rustix::process::geteuid().is_root() {
        println!(
            "SKIPPED: a_directory_of_somebody_else_is_refused_with_the_advice_to_name_one_inside: \
             only root can give a directory away"
        );
        return;
    }
    let at = tempfile::tempdir().unwrap();
    let path = at.path().join("volume");
    fs::create_dir(&path).unwrap();
    std::os::unix::fs::chown(&path, Some(4711), None).unwrap();
    let refused = Folder::open(&path).unwrap_err();
    assert!(matches!(refused, FolderError::Foreign { owner: 4711, .. }));
    let text = refused.to_string();
    assert!(
        text.contains("volume/chatd") && text.contains("4711"),
        "{text}"
    );
    let inside = Folder::open(&path.join("chatd")).unwrap();
    assert_eq!(mode(inside.path()), 0o700);
    // Nor a file in ours that is another's.
    fs::write(inside.path().join("NODE"), "1").unwrap();
    std::os::unix::fs::chown(inside.path().join("NODE"), Some(4711), None).unwrap();
    let refused = inside.read("NODE", 9).unwrap_err();
    assert!(matches!(refused, FolderError::Foreign { .. }), "{refused}");
}
