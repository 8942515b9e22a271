use super::*;

fn file(disk: &SimulatedDisk) -> Arc<dyn File> {
    let file = disk.create("a").unwrap();
    file.write_at(&[1; 2048], 0).unwrap();
    file.sync().unwrap();
    disk.sync_dir("").unwrap();
    file
}

#[test]
fn unsynced_writes_survive_in_pieces_of_a_sector() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..64 {
        let disk = SimulatedDisk::new();
        file(&disk).write_at(&[2; 1024], 512).unwrap();
        disk.crash(seed);
        let bytes = disk.bytes("a").unwrap();
        assert!(
            bytes
                .chunks(SECTOR)
                .all(|sector| sector.iter().all(|byte| *byte == sector[0]))
        );
        assert_eq!((bytes[0], bytes[2047]), (1, 1));
        outcomes.insert((bytes[512], bytes[1024]));
    }
    assert_eq!(outcomes.len(), 4, "every subset of the two sectors");
}

#[test]
fn a_name_without_a_directory_sync_may_be_gone() {
    let lost = (0..32)
        .filter(|seed| {
            let disk = SimulatedDisk::new();
            disk.create("b").unwrap().sync().unwrap();
            disk.crash(*seed);
            disk.open("b").is_err()
        })
        .count();
    assert!((1..32).contains(&lost), "{lost} of 32 lost");
}

#[test]
fn a_failed_sync_leaves_bytes_visible_and_never_durable() {
    let disk = SimulatedDisk::new();
    let file = file(&disk);
    file.write_at(&[3; 512], 0).unwrap();
    disk.plan(disk.effects() + 1, Fault::Io);
    assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(5));
    file.sync().unwrap();
    assert_eq!(disk.bytes("a").unwrap()[0], 3);
    disk.crash(0);
    assert_eq!(disk.bytes("a").unwrap()[0], 1);
}

#[test]
fn the_power_goes_at_the_planned_effect_and_handles_die() {
    let disk = SimulatedDisk::new();
    let file = file(&disk);
    disk.plan(disk.effects() + 2, Fault::PowerOff);
    file.write_at(&[4; 512], 0).unwrap();
    assert!(file.sync().is_err());
    assert!(disk.is_off());
    disk.crash(1);
    assert!(file.sync().is_err(), "a handle from before");
    assert!(disk.open("a").is_ok());
}

#[test]
fn planned_faults_do_what_they_say() {
    let disk = SimulatedDisk::new();
    let file = file(&disk);
    let next = disk.effects() + 1;
    disk.plan(next, Fault::Short);
    disk.plan(next + 1, Fault::NoSpace);
    disk.plan(next + 2, Fault::Misdirected(512));
    disk.plan(next + 3, Fault::Flip(0));
    assert_eq!(
        file.write_at(&[5; 8], 0).unwrap_err().kind(),
        io::ErrorKind::WriteZero
    );
    assert_eq!(
        file.write_at(&[6; 8], 0).unwrap_err().kind(),
        io::ErrorKind::StorageFull
    );
    file.write_at(&[7; 8], 0).unwrap();
    file.write_at(&[8; 8], 1024).unwrap();
    let bytes = disk.bytes("a").unwrap();
    assert_eq!((bytes[0], bytes[4], bytes[512], bytes[1024]), (5, 1, 7, 9));
    disk.set_capacity(Some(2048));
    assert_eq!(
        file.write_at(&[1; 8], 2044).unwrap_err().kind(),
        io::ErrorKind::StorageFull
    );
}
