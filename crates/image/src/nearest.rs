//! "Did you mean …?"

/// The candidate that differs least from `wanted`, if it differs little.
pub(crate) fn nearest<'a>(
    wanted: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<String> {
    let allowed = (wanted.chars().count() / 3).clamp(1, 4);
    candidates
        .map(|candidate| (distance(wanted, candidate, allowed), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}

/// Insertions, deletions, replacements and swaps of neighbours that lead from one to the other;
/// only exact up to `limit`.
fn distance(a: &str, b: &str, limit: usize) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    if a.len().abs_diff(b.len()) > limit {
        return limit + 1;
    }
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        let names = ["nginx:latest", "redis:7", "alpine:latest"];
        let find = |wanted| nearest(wanted, names.into_iter());
        assert_eq!(find("ngnix:latest").as_deref(), Some("nginx:latest"));
        assert_eq!(find("alpin:latest").as_deref(), Some("alpine:latest"));
        assert_eq!(find("postgres:latest"), None);
        assert_eq!(find("redis:8").as_deref(), Some("redis:7"));
    }
}
