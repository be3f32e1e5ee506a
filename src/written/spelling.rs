/// The known name that was probably meant: a few letters off, `-` for `_`, other case, or its section forgotten.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| name.to_lowercase().replace('-', "_");
    let name = plain(name);
    let letters = name.chars().count();
    // One slip in a short word, two in a longer one: more would suggest words that have nothing in common.
    let allowed = match letters {
        0..=2 => 0,
        3..=5 => 1,
        6..=9 => 2,
        _ => 3,
    };
    let mut nearest = None;
    for candidate in known {
        let other = plain(candidate);
        let slips = match other.rsplit_once('.') {
            Some((_, last)) if last == name => 1,
            // Comparing takes time and memory by the product of both lengths, and a name may be as long as a file.
            _ if other.chars().count().abs_diff(letters) > allowed => continue,
            _ => strsim::damerau_levenshtein(&name, &other),
        };
        if slips <= allowed && nearest.is_none_or(|(best, _)| slips < best) {
            nearest = Some((slips, candidate));
        }
    }
    nearest.map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_finds_its_neighbour_and_a_strange_one_finds_none() {
        let known = ["heartbeat", "frame_max", "tls.certfile", "bind"];
        assert_eq!(nearest("hartbeat", known), Some("heartbeat"));
        assert_eq!(nearest("frame-max", known), Some("frame_max"));
        assert_eq!(nearest("certfile", known), Some("tls.certfile"));
        assert_eq!(nearest("tls.cert_file", known), Some("tls.certfile"));
        assert_eq!(nearest("bnid", known), Some("bind"));
        assert_eq!(nearest("find_me", known), None);
        assert_eq!(nearest("x", known), None);
    }

    #[test]
    fn a_name_as_long_as_a_file_is_compared_with_none() {
        // With each it would take gigabytes.
        assert_eq!(nearest(&"x".repeat(16 << 20), ["heartbeat", "tls.certfile", "frame_max"]), None);
    }
}
