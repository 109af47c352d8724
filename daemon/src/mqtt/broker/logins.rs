//! The passwords of further users: checked one at a time, in turn by the address that they come from, and on a thread of their
//! own that gives way to those that compute.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::sleep;

use super::credentials::{self, CredentialsError};
use super::guard::Member;
use super::users::{Hash, Roster, UsersError, UsersFile};

/// Most connections that wait for their password to be checked, and most of one address.
const WAITING_MAX: usize = 64;
const WAITING_OF_ONE: usize = 16;
/// The pause of an embedded broker after a wrong password.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
/// The niceness of the thread that checks one.
const NICE: i32 = 19;

/// What became of a login.
pub(super) enum Login {
    Right(Member),
    Wrong,
    /// Too many wait, or there is no memory to check a password.
    Busy,
}

/// The further users, and those who wait to become one.
pub(super) struct Logins {
    file: Mutex<UsersFile>,
    roster: watch::Sender<Arc<Roster>>,
    /// One password is checked at a time.
    turn: Arc<Semaphore>,
    waiting: Mutex<HashMap<IpAddr, Waiting>>,
    /// Passwords that were right, as hashes that only this process can make: a user that comes back does not wait behind
    /// those that try passwords.
    known: Mutex<HashMap<String, [u8; 32]>>,
    secret: String,
    /// How long a wrong password keeps its address from the next one.
    pause: Duration,
}

/// The connections of one address that wait.
struct Waiting {
    count: usize,
    turn: Arc<Semaphore>,
}

impl Logins {
    /// Reads the users of a file. A wrong password costs its address this `pause`.
    pub(super) fn open(path: &Path, pause: Duration) -> Result<Self, LoginsError> {
        let (file, roster) = UsersFile::open(path)?;
        Ok(Self {
            file: Mutex::new(file),
            roster: watch::Sender::new(Arc::new(roster)),
            turn: Arc::new(Semaphore::new(1)),
            waiting: Mutex::default(),
            known: Mutex::default(),
            secret: credentials::random()?,
            pause,
        })
    }

    /// Reads the file again if it has changed. Gives the names of those who are no users any more.
    pub(super) fn look(&self) -> Vec<String> {
        let Some(roster) = lock(&self.file).changed() else {
            return Vec::new();
        };
        tracing::info!("the embedded broker's users have changed and were read again");
        let before = self.roster.send_replace(Arc::new(roster));
        let roster = self.roster.borrow();
        lock(&self.known).retain(|name, _| roster.get(name).is_some());
        before.without(&roster).map(str::to_owned).collect()
    }

    /// Checks the password of a user. It takes as long for a name that is none.
    pub(super) async fn check(&self, name: &str, password: &[u8], from: IpAddr) -> Login {
        let roster = Arc::clone(&self.roster.borrow());
        let hash = roster.get(name);
        let member = hash.map(|hash| Member {
            name: name.to_owned(),
            hash: Arc::clone(hash),
        });
        let mark = |hash: &Hash| -> [u8; 32] {
            let mark = Sha256::new().chain_update(&self.secret);
            let mark = mark.chain_update(hash.output()).chain_update(password);
            mark.finalize().into()
        };
        let known = lock(&self.known).get(name).copied();
        if let (Some(known), Some(hash)) = (known, hash)
            && bool::from(known.ct_eq(&mark(hash)))
        {
            return member.map_or(Login::Wrong, Login::Right);
        }
        let Some(tried) = hash.or_else(|| roster.costliest()) else {
            return Login::Wrong;
        };
        let Some(place) = self.place(origin(from)) else {
            return Login::Busy;
        };
        // neither semaphore is ever closed
        let (Ok(_turn), Ok(turn)) = (
            place.turn.acquire().await,
            Arc::clone(&self.turn).acquire_owned().await,
        ) else {
            return Login::Busy;
        };
        match (
            is_of(Arc::clone(tried), password.to_vec(), turn).await,
            member,
        ) {
            (Ok(true), Some(member)) => {
                lock(&self.known).insert(member.name.clone(), mark(tried));
                Login::Right(member)
            }
            (Ok(_), _) => {
                sleep(self.pause).await;
                Login::Wrong
            }
            (Err(error), _) => {
                tracing::warn!("the embedded broker cannot check a password: {error}");
                Login::Busy
            }
        }
    }

    /// Waits until one is no user any more, or has another password.
    pub(super) async fn expelled(&self, member: &Member) {
        let mut roster = self.roster.subscribe();
        let gone = |roster: &Arc<Roster>| !is_in(roster, member);
        // it ends with this, which it does not outlive
        let _ = roster.wait_for(gone).await;
    }

    /// Whether one is no user any more, whatever its password.
    pub(super) fn is_gone(&self, member: &Member) -> bool {
        self.roster.borrow().get(&member.name).is_none()
    }

    fn place(&self, from: IpAddr) -> Option<Place<'_>> {
        let mut waiting = lock(&self.waiting);
        let all: usize = waiting.values().map(|of| of.count).sum();
        let own = waiting.get(&from).map_or(0, |of| of.count);
        if all >= WAITING_MAX || own >= WAITING_OF_ONE {
            return None;
        }
        let own = waiting.entry(from).or_insert_with(|| Waiting {
            count: 0,
            turn: Arc::new(Semaphore::new(1)),
        });
        own.count += 1;
        Some(Place {
            waiting: &self.waiting,
            from,
            turn: Arc::clone(&own.turn),
        })
    }
}

fn is_in(roster: &Roster, member: &Member) -> bool {
    roster.get(&member.name) == Some(&member.hash)
}

/// Why nobody can log in.
#[derive(Debug, thiserror::Error)]
pub enum LoginsError {
    #[error(transparent)]
    Users(#[from] UsersError),
    #[error(transparent)]
    Random(#[from] CredentialsError),
}

/// A place among those who wait.
struct Place<'a> {
    waiting: &'a Mutex<HashMap<IpAddr, Waiting>>,
    from: IpAddr,
    turn: Arc<Semaphore>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = lock(self.waiting);
        if let Some(own) = waiting.get_mut(&self.from) {
            own.count -= 1;
            if own.count == 0 {
                waiting.remove(&self.from);
            }
        }
    }
}

/// Whose turn it is: an address, or a network of IPv6, in which one machine has as many addresses as it likes.
fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            Ipv6Addr::from(network).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Checks a password on a thread of its own, which keeps the `turn` until it has ended.
async fn is_of(hash: Arc<Hash>, password: Vec<u8>, turn: OwnedSemaphorePermit) -> io::Result<bool> {
    let (done, end) = oneshot::channel();
    std::thread::Builder::new()
        .name("passwords".to_owned())
        .spawn(move || {
            // on Linux of this thread alone; where it is not allowed, a password only costs the streams more
            let _ = rustix::process::nice(NICE);
            let right = hash.is_of(&password);
            drop(turn);
            // nobody may be waiting any more
            let _ = done.send(right);
        })?;
    let ended = end.await;
    ended.map_err(|_| io::Error::other("the thread that checks it panicked"))?
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
