//! "Did you mean …?"

/// The candidate that a slip or two of the fingers turn into `wanted`, when there is one: one slip
/// in a word of three letters, two in a longer one. The nearest comes first, then the first by
/// alphabet.
///
/// ```
/// use isle_types::nearest;
/// assert_eq!(nearest("wbe", ["db", "web"]), Some("web"));
/// assert_eq!(nearest("foo", ["db", "web"]), None);
/// ```
pub fn nearest<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted: Vec<char> = wanted.chars().collect();
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let letters: Vec<char> = candidate.chars().collect();
            // In a short word two slips leave nothing of it.
            let allowed = match letters.len().min(wanted.len()) {
                0 => return None,
                1..4 => 1,
                _ => 2,
            };
            let slips = slips(&wanted, &letters, allowed);
            (slips <= allowed).then_some((slips, candidate))
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// Letters added, left out, changed, or swapped with their neighbour (optimal string alignment);
/// more than `most` when there are more.
fn slips(left: &[char], right: &[char], most: usize) -> usize {
    if left.len().abs_diff(right.len()) > most {
        return most + 1;
    }
    let mut before = vec![0; right.len() + 1];
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for row in 1..=left.len() {
        let mut line = vec![row; right.len() + 1];
        for column in 1..=right.len() {
            let changed = usize::from(left[row - 1] != right[column - 1]);
            let mut best = (last[column - 1] + changed)
                .min(last[column] + 1)
                .min(line[column - 1] + 1);
            let is_swap = row > 1
                && column > 1
                && left[row - 1] == right[column - 2]
                && left[row - 2] == right[column - 1];
            if is_swap {
                best = best.min(before[column - 2] + 1);
            }
            line[column] = best;
        }
        before = std::mem::replace(&mut last, line);
    }
    last[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_fingers_is_understood() {
        for (wanted, meant) in [
            ("wbe", "web"),
            ("we", "web"),
            ("wen", "web"),
            ("databsae", "database"),
            ("dtaabsae", "database"),
            ("databas", "database"),
            ("datbaze", "database"),
            ("rnu", "run"),
            ("exce", "exec"),
        ] {
            let names = ["web", "database", "run", "rm", "rmi", "exec", "ps"];
            assert_eq!(nearest(wanted, names), Some(meant), "{wanted}");
        }
    }

    #[test]
    fn another_word_is_no_slip() {
        for wanted in ["", "foo", "bew", "postgres", "é"] {
            assert_eq!(nearest(wanted, ["web", "db", "ps", ""]), None, "{wanted}");
        }
    }

    #[test]
    fn slips_are_counted() {
        let count = |left: &str, right: &str| {
            let letters = |word: &str| word.chars().collect::<Vec<_>>();
            slips(&letters(left), &letters(right), 4)
        };
        for (left, right, expected) in [
            ("", "", 0),
            ("web", "web", 0),
            ("wbe", "web", 1),
            ("ab", "ba", 1),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(count(left, right), expected, "{left} {right}");
            assert_eq!(count(right, left), expected, "{right} {left}");
        }
    }
}
