//! Slow hashes, on threads of their own: few at once, few that wait, and less pressing than everything else.

use crate::auth::{self, Algorithm, Memory, Secret, User};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Hashes at once. Each takes one processor and 19 MiB for tens of milliseconds.
const HASHES_MAX: usize = 2;
/// Those that wait for their turn.
const WAITING_MAX: usize = 64;
/// How much less the threads get of a busy processor: a tenth.
const NICENESS: i32 = 10;

#[derive(Debug)]
pub struct Hashing {
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// To the threads, which start with the first job. Bounded by the turns: each job holds one.
    jobs: OnceLock<mpsc::Sender<Ordered>>,
}

/// What is to be hashed.
#[derive(Debug)]
pub enum Job {
    /// Is this the user's password? Nobody's is none, after the same work.
    Verify { user: Option<Arc<User>>, password: Secret },
    /// A new password's hash.
    Hash { password: Secret },
}

/// What came out.
#[derive(Debug)]
pub enum Answer {
    Verified(bool),
    Hash(String),
}

/// The right to hash once.
pub type Turn = OwnedSemaphorePermit;

#[derive(Debug)]
struct Ordered {
    job: Job,
    answer: oneshot::Sender<Answer>,
    /// Given back when the job is done, even if nobody waits for it any more.
    turn: Turn,
}

impl Answer {
    pub fn is_right(&self) -> bool {
        matches!(self, Self::Verified(true))
    }

    pub fn into_hash(self) -> Option<String> {
        match self {
            Self::Hash(hash) => Some(hash),
            Self::Verified(_) => None,
        }
    }
}

impl Hashing {
    pub fn new() -> Self {
        let turns = Arc::new(Semaphore::new(HASHES_MAX));
        Self { turns, waiting: AtomicUsize::new(0), jobs: OnceLock::new() }
    }

    /// Waits for a turn; `None` if too many do.
    pub async fn turn(&self) -> Option<Turn> {
        if let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() {
            return Some(turn);
        }
        let _waiting = Waiting::among(&self.waiting)?;
        Arc::clone(&self.turns).acquire_owned().await.ok()
    }

    /// Does a job. `None` if it can't be done.
    pub async fn run(&self, turn: Turn, job: Job) -> Option<Answer> {
        let (answer, answered) = oneshot::channel();
        let jobs = self.jobs.get_or_init(start);
        jobs.send(Ordered { job, answer, turn }).ok()?;
        answered.await.ok()
    }
}

/// One of those that wait, for as long as this lives.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn among(waiting: &'a AtomicUsize) -> Option<Self> {
        let counted = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < WAITING_MAX).then_some(counted)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The threads, which end when there is nobody left to send them anything.
fn start() -> mpsc::Sender<Ordered> {
    let (sender, jobs) = mpsc::channel::<Ordered>();
    let jobs = Arc::new(parking_lot::Mutex::new(jobs));
    for number in 1..=HASHES_MAX {
        let jobs = Arc::clone(&jobs);
        let thread = std::thread::Builder::new().name(format!("hashing-{number}"));
        let started = thread.spawn(move || {
            // Of this thread alone, as Linux has it. If it can't be done, passwords are as pressing as messages.
            let _ = rustix::process::setpriority_process(None, NICENESS);
            // Kept from then on: to take and give it back for each hash costs as much as hashing.
            let mut memory = Memory::default();
            loop {
                // One thread waits for the next job with the lock held, the other for the lock.
                let Ok(ordered) = jobs.lock().recv() else { return };
                ordered.act(&mut memory);
            }
        });
        if let Err(error) = started {
            tracing::error!("a thread for hashing passwords can't be started: {error}");
        }
    }
    sender
}

impl Ordered {
    fn act(self, memory: &mut Memory) {
        let Self { job, answer, turn } = self;
        if answer.is_closed() {
            return;
        }
        let done = match job {
            Job::Verify { user, password } => {
                Answer::Verified(auth::verify_slowly(user.as_deref(), password.expose(), memory))
            }
            Job::Hash { password } => Answer::Hash(auth::hash(password.expose(), &Algorithm::Argon2id)),
        };
        drop(turn);
        // Whoever asked may have gone.
        let _ = answer.send(done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn is_ready<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[test]
    fn only_so_many_wait_for_their_turn() {
        let hashing = Hashing::new();
        let turns: Vec<_> = (0..HASHES_MAX).map(|_| is_ready(pin!(hashing.turn())).unwrap().unwrap()).collect();
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| Box::pin(hashing.turn())).collect();
        assert!(waiting.iter_mut().all(|turn| is_ready(turn.as_mut()).is_none()));
        assert!(matches!(is_ready(pin!(hashing.turn())), Some(None)));
        // Who goes makes room for another.
        waiting.pop();
        assert!(is_ready(pin!(hashing.turn())).is_none());
        drop(turns);
        let served: Vec<_> = waiting.iter_mut().filter_map(|turn| is_ready(turn.as_mut()).flatten()).collect();
        assert_eq!(served.len(), HASHES_MAX);
    }

    #[tokio::test]
    async fn passwords_are_hashed_and_verified_elsewhere() {
        let hashing = Hashing::new();
        let password = Secret::new("geheim");
        let turn = hashing.turn().await.unwrap();
        let hash = hashing.run(turn, Job::Hash { password: password.clone() }).await.unwrap().into_hash().unwrap();
        let user = Arc::new(User {
            name: "hare".to_owned(),
            password_hash: hash,
            hashing_algorithm: Algorithm::Argon2id,
            tags: Vec::new(),
            limits: crate::auth::UserLimits::default(),
        });
        for (user, password, right) in
            [(Some(&user), "geheim", true), (Some(&user), "gehein", false), (None, "geheim", false)]
        {
            let job = Job::Verify { user: user.cloned(), password: Secret::new(password) };
            let turn = hashing.turn().await.unwrap();
            assert_eq!(hashing.run(turn, job).await.unwrap().is_right(), right);
        }
        assert_eq!(hashing.turns.available_permits(), HASHES_MAX);
    }
}
