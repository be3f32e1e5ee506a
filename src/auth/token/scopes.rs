//! What a token's scopes allow (`rabbit_oauth2_scope.erl`).

use crate::auth::Access;

/// What somebody with a token may do: scopes of the form `read:vhost/name` or `read:vhost/name/routing-key`, with `*`
/// for anything in each part and `%2F` for what would divide it, and tags.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scopes {
    grants: Vec<Grant>,
    tags: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Grant {
    access: Access,
    vhost: Part,
    name: Part,
    /// Without one, the scope counts for no topic exchange's keys.
    key: Option<Part>,
}

/// A pattern: the pieces between its `*`, where `{vhost}` stands for the virtual host that is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part(Vec<Vec<Piece>>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Octets(Vec<u8>),
    Vhost,
}

impl Scopes {
    /// Understands scopes without their prefix. `claim` is what `{name}` stands for. What is no scope, or names a claim
    /// that there is not, counts for nothing.
    pub fn of<'a>(scopes: impl IntoIterator<Item = &'a str>, claim: impl Fn(&str) -> Option<&'a str>) -> Self {
        let mut all = Self::default();
        for scope in scopes {
            if let Some(tag) = scope.strip_prefix("tag:") {
                all.tags.push(tag.to_owned());
            } else if let Some(grant) = Grant::of(scope, &claim) {
                all.grants.push(grant);
            }
        }
        all.tags.sort_unstable();
        all.tags.dedup();
        all
    }

    pub fn tags(&self) -> &[String] {
        &self.tags
    }

    /// Any right on anything there.
    pub fn may_enter(&self, vhost: &str) -> bool {
        self.grants.iter().any(|grant| grant.vhost.matches(vhost, vhost))
    }

    pub fn allows(&self, access: Access, vhost: &str, name: &str) -> bool {
        self.grants.iter().any(|grant| grant.is_on(access, vhost, name))
    }

    /// Whether messages may be written to or read from a topic exchange with this key.
    pub fn allows_topic(&self, access: Access, vhost: &str, exchange: &str, key: &str) -> bool {
        let is_for = |part: &Option<Part>| part.as_ref().is_some_and(|part| part.matches(key, vhost));
        self.grants.iter().any(|grant| grant.is_on(access, vhost, exchange) && is_for(&grant.key))
    }
}

impl Grant {
    fn of<'a>(scope: &str, claim: &impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let (access, rest) = scope.split_once(':')?;
        let access = match access {
            "read" => Access::Read,
            "write" => Access::Write,
            "configure" => Access::Configure,
            _ => return None,
        };
        let mut parts = rest.split('/');
        let (vhost, name) = (parts.next()?, parts.next()?);
        let key = parts.next();
        let key = match key {
            Some(key) => Some(Part::of(key, claim)?),
            None => None,
        };
        let whole = parts.next().is_none();
        let grant = Self { access, vhost: Part::of(vhost, claim)?, name: Part::of(name, claim)?, key };
        whole.then_some(grant)
    }

    fn is_on(&self, access: Access, vhost: &str, name: &str) -> bool {
        self.access == access && self.vhost.matches(vhost, vhost) && self.name.matches(name, vhost)
    }
}

impl Part {
    fn of<'a>(text: &str, claim: &impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        text.split('*').map(|text| pieces(text, claim)).collect::<Option<_>>().map(Self)
    }

    /// Whether the whole subject is this: each piece is looked for behind the one before, and the last ends it.
    fn matches(&self, subject: &str, vhost: &str) -> bool {
        let subject = subject.as_bytes();
        let literal = |pieces: &[Piece]| -> Vec<u8> {
            let octets = pieces.iter().flat_map(|piece| match piece {
                Piece::Octets(octets) => octets.as_slice(),
                Piece::Vhost => vhost.as_bytes(),
            });
            octets.copied().collect()
        };
        let (first, rest) = self.0.split_first().expect("a split text has a first part");
        let Some(mut left) = subject.strip_prefix(literal(first).as_slice()) else { return false };
        let Some((last, middle)) = rest.split_last() else { return left.is_empty() };
        for piece in middle {
            let piece = literal(piece);
            let Some(at) = find(left, &piece) else { return false };
            left = &left[at + piece.len()..];
        }
        left.ends_with(&literal(last))
    }
}

/// Whether a name is what a pattern with `*` says.
pub(super) fn wildcard(pattern: &str, name: &str) -> bool {
    Part::of(pattern, &|_| None).is_some_and(|pattern| pattern.matches(name, ""))
}

fn find(octets: &[u8], piece: &[u8]) -> Option<usize> {
    if piece.is_empty() {
        return Some(0);
    }
    octets.windows(piece.len()).position(|window| window == piece)
}

/// The literal text between two `*`: percent-decoded, with claims in the place of their names, letter by letter.
fn pieces<'a>(text: &str, claim: &impl Fn(&str) -> Option<&'a str>) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}')?;
        pieces.push(Piece::Octets(decoded(before)?));
        pieces.push(match name {
            "vhost" => Piece::Vhost,
            name => Piece::Octets(claim(name)?.as_bytes().to_vec()),
        });
        rest = after;
    }
    pieces.push(Piece::Octets(decoded(rest)?));
    Some(pieces)
}

/// As in the query of an address: `%2F` is a slash and `+` a space (`cow_qs:urldecode`).
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&octet, after)) = rest.split_first() {
        rest = after;
        octets.push(match octet {
            b'+' => b' ',
            b'%' => {
                let (digits, after) = rest.split_first_chunk::<2>()?;
                rest = after;
                let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
                u8::from_str_radix(digits, 16).ok()?
            }
            octet => octet,
        });
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(scopes: &[&str]) -> Scopes {
        Scopes::of(scopes.iter().copied(), |name| (name == "client_id").then_some("h*re/1"))
    }

    /// The cases of RabbitMQ's `wildcard_match_SUITE` and `scope_SUITE`.
    #[test]
    fn patterns_match_as_rabbitmqs_do() {
        let cases = [
            ("", "", true),
            ("", "foo", false),
            ("foo", "foo", true),
            ("foo", "fooo", false),
            ("foo", "bar", false),
            ("*", "", true),
            ("*", "*", true),
            ("*", "foo/bar", true),
            ("**", "foo", true),
            ("foo*", "foo", true),
            ("foo*", "foo_bar", true),
            ("foo*", "a_foo", false),
            ("*foo", "foo", true),
            ("*foo", "a_foo", true),
            ("*foo", "foo_bar", false),
            ("*foo*", "a_foo_b", true),
            ("a*b*c", "a_b_c", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("*rout", "norout", true),
            ("*rout", "rout_rout", true),
            ("%2A", "*", true),
            ("%2A", "x", false),
            ("f%6Fo", "foo", true),
            ("a+b", "a b", true),
            ("%D1%8E*", "юникод", true),
            ("%2", "%2", false),
            ("%+1", "\u{1}", false),
        ];
        for (pattern, name, matches) in cases {
            let scopes = scopes(&[&format!("read:/{pattern}")]);
            assert_eq!(scopes.allows(Access::Read, "", name), matches, "{pattern} {name}");
        }
    }

    #[test]
    fn each_scope_is_for_one_access_and_any_lets_one_in() {
        let scopes = scopes(&["write:foo/q*", "read:%2F/*", "configure:foo%2Fbar/x/k", "tag:b", "tag:a", "tag:a"]);
        assert!(scopes.allows(Access::Write, "foo", "q1"));
        assert!(!scopes.allows(Access::Read, "foo", "q1") && !scopes.allows(Access::Configure, "foo", "q1"));
        assert!(scopes.allows(Access::Read, "/", "anything/at*all") && !scopes.allows(Access::Read, "foo", "q"));
        assert!(scopes.allows(Access::Configure, "foo/bar", "x"));
        assert!(["foo", "/", "foo/bar"].iter().all(|vhost| scopes.may_enter(vhost)) && !scopes.may_enter("bar"));
        assert_eq!(scopes.tags(), ["a", "b"]);
    }

    #[test]
    fn a_topics_key_needs_a_scope_that_speaks_of_keys() {
        let scopes = scopes(&["write:*/x/a.*", "write:*/y", "read:*/x/*"]);
        assert!(scopes.allows_topic(Access::Write, "/", "x", "a.b"));
        assert!(!scopes.allows_topic(Access::Write, "/", "x", "b"));
        assert!(scopes.allows_topic(Access::Read, "/", "x", "b"));
        assert!(scopes.allows(Access::Write, "/", "y") && !scopes.allows_topic(Access::Write, "/", "y", "a"));
    }

    #[test]
    fn what_is_no_scope_counts_for_nothing() {
        for none in ["", "read", "read:", "read:*", "read:a/b/c/d", "delete:*/*", "*:*/*", "read:*/%zz", "read:{/*"] {
            assert_eq!(scopes(&[none]), Scopes::default(), "{none}");
        }
    }

    #[test]
    fn claims_and_the_virtual_host_are_filled_in_letter_by_letter() {
        let scopes = scopes(&["read:{vhost}/{client_id}-*", "write:{client_id}/*", "configure:*/{vhost}.{nobody}"]);
        assert!(scopes.allows(Access::Read, "/", "h*re/1-q") && scopes.allows(Access::Read, "a*", "h*re/1-"));
        assert!(!scopes.allows(Access::Read, "/", "hare/1-q"));
        assert!(scopes.allows(Access::Write, "h*re/1", "q") && !scopes.allows(Access::Write, "hare/1", "q"));
        assert!(!scopes.allows(Access::Configure, "/", "/.nobody"));
        assert!(Scopes::of(["read:x/{vhost}}"], |_| None).allows(Access::Read, "x", "x}"));
    }
}
