//! What the process keeps to itself: its folder, its memory.

use super::support::{Broker, Declare, Peer, peer::PERSISTENT};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use tempfile::TempDir;

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Everything below a folder, with its mode.
fn modes_below(folder: &Path) -> Vec<(String, u32)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(modes_below(&path));
        }
        found.push((path.display().to_string(), mode(&path)));
    }
    found
}

#[test]
fn the_data_folder_and_all_in_it_are_its_owners_alone() {
    let folder = TempDir::new().unwrap();
    // With a folder above it that is not there yet.
    let data = folder.path().join("new/data");
    let mut broker = Broker::with(&["--data-dir", data.to_str().unwrap()]);
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    peer.confirm_select(1);
    peer.publish(1, "q", PERSISTENT, b"nobody else's business");
    peer.expect_confirms(1, 1);
    assert!(broker.stop().success());
    assert_eq!(mode(&data), 0o700);
    let modes = modes_below(&data);
    assert!(modes.len() > 5, "{modes:?}");
    assert!(modes.iter().all(|(_, mode)| mode & 0o077 == 0), "{modes:?}");
    // One that was open to others is closed, and that is told.
    set_mode(&data, 0o755);
    broker.restart();
    assert_eq!(mode(&data), 0o700);
    assert!(broker.log().iter().any(|line| line.ends_with("mode 0755 became 0700")), "{:?}", broker.log());
}

#[test]
fn a_folder_that_is_shared_by_all_is_refused_and_left_as_it_is() {
    let folder = TempDir::new().unwrap();
    set_mode(folder.path(), 0o1777);
    let refused = Broker::refused(folder.path(), 0);
    assert_eq!(refused.exit_code, Some(leveret::server::exit::IO.into()));
    assert!(refused.text.contains("is shared by everybody (mode 1777)"), "{refused:?}");
    assert_eq!(mode(folder.path()), 0o1777);
}

#[test]
fn a_crash_leaves_no_image_of_the_memory() {
    let mut broker = Broker::with(&["--core-dumps", "false"]);
    Peer::open(&broker).close();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", broker.id())).unwrap();
    let limit = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(limit.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{limit}");
    let id = rustix::process::Pid::from_raw(i32::try_from(broker.id()).unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::ABORT).unwrap();
    let status = broker.wait();
    assert!(status.signal() == Some(6) && !status.core_dumped(), "{status:?}");
}
