//! File systems of one's own: small ones, and ones whose disk can be copied at any moment.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Mounted below a folder that is somebody else's to remove; unmounted when dropped.
pub struct Disk {
    pub mount: PathBuf,
    /// The file that it lies in, if it is ext4.
    image: Option<PathBuf>,
    mounted: bool,
}

impl Disk {
    /// A tmpfs of so many octets.
    pub fn small(mount: PathBuf, bytes: u64) -> io::Result<Self> {
        std::fs::create_dir_all(&mount)?;
        run("mount", &["-t", "tmpfs", "-o", &format!("size={bytes},mode=755"), "leveret-faults", &text(&mount)])?;
        Ok(Self { mount, image: None, mounted: true })
    }

    /// ext4 in a file.
    pub fn image(image: PathBuf, mount: PathBuf, bytes: u64) -> io::Result<Self> {
        std::fs::create_dir_all(&mount)?;
        File::create(&image)?.set_len(bytes)?;
        // Without lazy initialisation, which would write to the disk in its own time.
        run("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", &text(&image)])?;
        let mut disk = Self { mount, image: Some(image), mounted: false };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&mut self) -> io::Result<()> {
        let Some(image) = &self.image else { return Ok(()) };
        run("mount", &["-o", "loop", &text(image), &text(&self.mount)])?;
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) {
        if self.mounted {
            // Even if a process that is about to end still uses it.
            let _ = run("umount", &["-l", &text(&self.mount)]);
            self.mounted = false;
        }
    }

    /// What the disk holds at this moment: not what only the system's memory holds. Everybody who writes is frozen. How
    /// often it was tried, as the system may write something back at any time.
    pub fn copy(&self, to: &Path) -> io::Result<u64> {
        let image = self.image.as_ref().ok_or_else(|| io::Error::other("no image"))?;
        let device = self.device()?;
        for tries in 1..=20 {
            let before = written(&device)?;
            run("cp", &["--sparse=always", &text(image), &text(to)])?;
            if written(&device)? == before {
                return Ok(tries);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(io::Error::other("the disk never stands still"))
    }

    /// In place of what is mounted: what the disk held.
    pub fn replace(&mut self, copy: &Path) -> io::Result<()> {
        self.unmount();
        let image = self.image.clone().ok_or_else(|| io::Error::other("no image"))?;
        // The loop device keeps the old file until the last process is gone.
        std::fs::rename(copy, &image)?;
        self.mount()
    }

    /// Such as `loop3`.
    fn device(&self) -> io::Result<String> {
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let wanted = text(&self.mount);
        let found = mounts.lines().rev().find_map(|line| {
            let mut words = line.split(' ');
            let device = words.next()?;
            (words.next()? == wanted).then(|| device.rsplit('/').next().unwrap_or_default().to_owned())
        });
        found.ok_or_else(|| io::Error::other("not mounted"))
    }

    /// Octets that may still be written.
    pub fn free(&self) -> io::Result<u64> {
        let found = rustix::fs::statvfs(&self.mount)?;
        Ok(found.f_bavail * found.f_frsize)
    }

    /// Takes what is free, but for so many octets.
    pub fn fill_but(&self, left: u64) -> io::Result<()> {
        let file = File::options().create(true).append(true).open(self.filler())?;
        let taken = file.metadata()?.len();
        let wanted = (taken + self.free()?).saturating_sub(left);
        if wanted > taken {
            // Somebody else may take it meanwhile: as much as there is will do.
            let _ = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, wanted);
        } else {
            file.set_len(wanted)?;
        }
        Ok(())
    }

    pub fn relieve(&self) {
        // There may be none.
        let _ = std::fs::remove_file(self.filler());
    }

    fn filler(&self) -> PathBuf {
        self.mount.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// Whether this process may mount what lies in a file.
pub fn may_mount() -> bool {
    rustix::process::geteuid().is_root() && Path::new("/dev/loop-control").exists()
}

/// Requests to write that a device has finished, and sectors.
fn written(device: &str) -> io::Result<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/sys/block/{device}/stat"))?;
    // Writes, writes merged, sectors written; and how many requests are under way.
    let fields: Vec<String> = stat.split_whitespace().map(str::to_owned).collect();
    Ok([4, 5, 6, 8].iter().filter_map(|at| fields.get(*at).cloned()).collect())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn run(program: &str, arguments: &[&str]) -> io::Result<()> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("{program} {}: {error}", arguments.join(" "))))
}
