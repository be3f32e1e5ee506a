use std::fmt;

use regex::bytes::{Regex, RegexBuilder};

/// Octets of a pattern.
pub const PATTERN_BYTES_MAX: usize = 1024;
/// Octets of a compiled pattern: what nested repetitions blow up is refused instead.
const COMPILED_BYTES_MAX: usize = 1 << 20;
/// Octets of what is remembered between searches.
const CACHE_BYTES_MAX: usize = 2 << 20;
/// How deep groups may nest.
const NESTING_MAX: u32 = 50;

/// A pattern over names, in permissions and policies: a regular expression that may match anywhere in a name.
///
/// RabbitMQ's are PCRE over octets. Here the time to search grows with the name alone, so look-around and
/// back-references can't be had; everything else means the same, `\w` being ASCII as there.
#[derive(Debug, Clone)]
pub struct Pattern {
    source: String,
    regex: Regex,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// Its beginning.
    pattern: String,
    /// Octets of all of it.
    length: usize,
    why: String,
}

impl Pattern {
    /// A permission's pattern: an empty one matches only the empty name (`rabbit_auth_backend_internal.erl`).
    pub fn new(source: &str) -> Result<Self, Unusable> {
        Self::compile(source, "^$")
    }

    /// A policy's pattern: an empty one matches every name (`rabbit_policy:matches`).
    pub fn of_policy(source: &str) -> Result<Self, Unusable> {
        Self::compile(source, "")
    }

    /// `empty` is what the empty pattern stands for.
    fn compile(source: &str, empty: &str) -> Result<Self, Unusable> {
        let unusable = |why: String| Unusable { pattern: source.chars().take(80).collect(), length: source.len(), why };
        if source.len() > PATTERN_BYTES_MAX {
            return Err(unusable(format!("longer than {PATTERN_BYTES_MAX} octets")));
        }
        let regex = RegexBuilder::new(if source.is_empty() { empty } else { source })
            .unicode(false)
            .size_limit(COMPILED_BYTES_MAX)
            .dfa_size_limit(CACHE_BYTES_MAX)
            .nest_limit(NESTING_MAX)
            .build();
        match regex {
            Ok(regex) => Ok(Self { source: source.to_owned(), regex }),
            Err(regex::Error::CompiledTooBig(_)) => Err(unusable("its repetitions are too many".to_owned())),
            // The engine draws where in the pattern it is; the last line says what.
            Err(error) => {
                let text = error.to_string();
                let last = text.lines().last().unwrap_or_default();
                Err(unusable(last.trim_start_matches("error: ").to_owned()))
            }
        }
    }

    pub fn matches(&self, name: &str) -> bool {
        self.regex.is_match(name.as_bytes())
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

impl Unusable {
    /// What is wrong with it.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// The same as RabbitMQ's engine says it, and the octet it is at; `None` if that has no such mistake.
    pub fn in_pcre(&self) -> Option<(&'static str, usize)> {
        let words = match &*self.why {
            "unclosed group" => "missing closing parenthesis",
            "unclosed character class" => "missing terminating ] for character class",
            "repetition operator missing expression" => "quantifier does not follow a repeatable item",
            "unopened group" => "unmatched closing parenthesis",
            _ => return None,
        };
        // Both engines notice the first two at the end, and of the others only patterns of one letter are common.
        Some((words, self.length))
    }
}

/// The same source is the same pattern: permissions are compared with permissions, policies with policies.
impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl fmt::Display for Unusable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "'{}' can't be used as a pattern: {}", self.pattern, self.why)
    }
}

impl std::error::Error for Unusable {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_pattern_of_a_policy_matches_everything() {
        let pattern = Pattern::of_policy("").unwrap();
        assert!(pattern.matches("") && pattern.matches("q"));
        assert_eq!(pattern.as_str(), "");
    }

    #[test]
    fn patterns_match_anywhere_in_a_name_and_the_empty_one_only_the_empty_name() {
        let cases = [
            (".*", "anything", true),
            (".*", "", true),
            ("orders", "my-orders-2", true),
            ("^orders$", "my-orders", false),
            ("^(amq\\.gen.*|amq\\.default)$", "amq.default", true),
            ("", "", true),
            ("", "q", false),
            ("^\\w+$", "größe", false),
            ("größe", "größe", true),
        ];
        for (pattern, name, matches) in cases {
            assert_eq!(Pattern::new(pattern).unwrap().matches(name), matches, "{pattern} {name}");
        }
    }

    #[test]
    fn what_the_engine_cannot_do_is_said() {
        let why = |pattern: &str| Pattern::new(pattern).unwrap_err().to_string();
        assert_eq!(
            why(r"^(?!amq\.).*"),
            "'^(?!amq\\.).*' can't be used as a pattern: look-around, including look-ahead and look-behind, \
             is not supported"
        );
        assert_eq!(why(r"(a)\1"), r"'(a)\1' can't be used as a pattern: backreferences are not supported");
        assert_eq!(why("("), "'(' can't be used as a pattern: unclosed group");
        assert_eq!(
            why("(a{1000}){1000}"),
            "'(a{1000}){1000}' can't be used as a pattern: its repetitions are too many"
        );
        assert!(why(&"x".repeat(1025)).ends_with("longer than 1024 octets"));
        assert!(Pattern::new(&"(".repeat(500)).is_err());
    }
}
