//! Passwords against their bcrypt hashes.

use ahash::AHashSet;
use config::Secret;
use ring::digest::{SHA256, digest};
use std::str::FromStr;
use std::sync::Mutex;

/// Stands for the hash of a user who does not exist; no password fits it.
const NOBODY: &str = "$2b$10$abcdefghijklmnopqrstuu37RkUr9H1EPO4Rc63Ngz60LSVREthYa";
/// Costs above this would hold a thread for minutes; each step doubles the time.
const COST_MAX: u32 = 16;
/// Passwords that were right and are not computed again.
const REMEMBERED_MAX: usize = 256;

#[derive(Default)]
pub(crate) struct Passwords {
    /// Digests of user, hash and password together.
    right: Mutex<AHashSet<[u8; 32]>>,
    /// One computes at a time: who guesses takes no more than one thread.
    turn: tokio::sync::Mutex<()>,
}

impl Passwords {
    /// Whether the password is the user's, whose hash is none if there is no such user.
    pub async fn is_right(&self, user: String, hash: Option<String>, password: String) -> bool {
        let exists = hash.is_some();
        let hash = hash.unwrap_or_else(|| NOBODY.to_owned());
        let text = format!("{}:{user}{hash}{password}", user.len());
        let key: [u8; 32] = digest(&SHA256, text.as_bytes()).as_ref().try_into().expect("256 bits");
        if self.right.lock().expect("no panic while held").contains(&key) {
            return true;
        }
        let _turn = self.turn.lock().await;
        let compare = move || bcrypt::verify(password, &hash).unwrap_or(false);
        let fits = tokio::task::spawn_blocking(compare).await.unwrap_or(false) && exists;
        if fits {
            let mut right = self.right.lock().expect("no panic while held");
            if right.len() >= REMEMBERED_MAX {
                right.clear();
            }
            right.insert(key);
        }
        fits
    }
}

/// Looks at the hashes of users; says whose is none.
pub(crate) fn check(users: &[(String, Secret)]) -> Result<(), String> {
    for (user, hash) in users {
        let wanted = "make one by `htpasswd -nBC 10 user`";
        let parts = bcrypt::HashParts::from_str(hash.reveal())
            .map_err(|_| format!("basic_auth_users: the password of {user:?} is not hashed with bcrypt; {wanted}"))?;
        if parts.get_cost() > COST_MAX {
            return Err(format!(
                "basic_auth_users: the hash of {user:?} has a cost of {}, more than {COST_MAX}; {wanted}",
                parts.get_cost()
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_of_a_user_is_right() {
        let passwords = Passwords::default();
        let hash = bcrypt::hash("secret", 4).unwrap();
        let ask = |hash: Option<&String>, password: &str| {
            passwords.is_right("ann".into(), hash.cloned(), password.to_owned())
        };
        // Twice: what was right is remembered.
        for _ in 0..2 {
            assert!(ask(Some(&hash), "secret").await);
            assert!(!ask(Some(&hash), "Secret").await);
            assert!(!ask(None, "secret").await);
        }
        let other = bcrypt::hash("other", 4).unwrap();
        assert!(!ask(Some(&other), "secret").await, "another hash makes what was right forgotten");
    }

    #[test]
    fn the_hash_of_nobody_is_one() {
        assert_eq!(bcrypt::HashParts::from_str(NOBODY).unwrap().get_cost(), 10);
        assert!(matches!(bcrypt::verify("", NOBODY), Ok(false)));
    }

    #[test]
    fn hashes_are_looked_at() {
        let users = |hash: &str| vec![("ann".to_owned(), Secret::new(hash))];
        assert_eq!(check(&users(&bcrypt::hash("x", 4).unwrap())), Ok(()));
        let plain = check(&users("hunter2")).unwrap_err();
        assert!(plain.contains("\"ann\" is not hashed with bcrypt") && !plain.contains("hunter2"), "{plain}");
        let dear = check(&users(&NOBODY.replace("$10$", "$31$"))).unwrap_err();
        assert!(dear.contains("cost of 31"), "{dear}");
    }
}
