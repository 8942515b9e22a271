use super::*;

fn replace(files: &Files, with: &Files) {
    fs::copy(&with.certificate, &files.certificate).unwrap();
    fs::copy(&with.key, &files.key).unwrap();
}

#[test]
fn the_dev_certificate_is_made_once_and_its_key_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let files = dev_files(&Folder::open(folder.path()).unwrap()).unwrap();
    let first = fs::read(&files.certificate).unwrap();
    assert_eq!(
        dev_files(&Folder::open(folder.path()).unwrap()).unwrap(),
        files
    );
    assert_eq!(fs::read(&files.certificate).unwrap(), first);
    assert_eq!(
        fs::metadata(&files.key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let certificate = Arc::new(Certificate::load(files).unwrap());
    assert!(certificate.tcp().is_ok() && certificate.quic().is_ok());
}

#[test]
fn a_new_certificate_is_taken_and_a_wrong_one_leaves_the_old() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = dev_files(&Folder::open(one.path()).unwrap()).unwrap();
    let other = dev_files(&Folder::open(two.path()).unwrap()).unwrap();
    let certificate = Certificate::load(files.clone()).unwrap();
    let first = certificate.current.load().cert.clone();
    assert!(!certificate.reload().unwrap(), "nothing changed");

    fs::copy(&other.certificate, &files.certificate).unwrap();
    let error = certificate.reload().unwrap_err().to_string();
    assert!(error.contains("cannot be used together"), "{error}");
    assert_eq!(certificate.current.load().cert, first);

    replace(&files, &other);
    assert!(certificate.reload().unwrap());
    assert_ne!(certificate.current.load().cert, first);
}

#[test]
fn a_missing_or_empty_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let files = dev_files(&Folder::open(folder.path()).unwrap()).unwrap();
    let certificate = fs::read(&files.certificate).unwrap();
    fs::write(&files.certificate, "").unwrap();
    let error = Certificate::load(files.clone()).unwrap_err().to_string();
    assert!(
        error.contains("cert.pem") && error.contains("CERTIFICATE"),
        "{error}"
    );
    fs::write(&files.certificate, certificate).unwrap();
    fs::remove_file(&files.key).unwrap();
    let error = Certificate::load(files).unwrap_err().to_string();
    assert!(error.contains("key.pem"), "{error}");
}
