//! The `WWW-Authenticate` header: what a registry asks for (RFC 9110 section 11.6.1).

use std::collections::BTreeMap;

/// One challenge: `Bearer realm="https://auth.docker.io/token",service="registry.docker.io"`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Challenge {
    /// In lower case.
    pub(crate) scheme: String,
    /// Names in lower case, values without their quotes. The first of two equal names wins.
    pub(crate) parameters: BTreeMap<String, String>,
}

impl Challenge {
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }
}

const LONGEST_HEADER: usize = 8 * 1024;
const MOST_CHALLENGES: usize = 8;
const MOST_PARAMETERS: usize = 32;

/// Reads one header, which may hold several challenges.
///
/// `None` when it cannot be read, or is larger than any honest server sends: a half-understood
/// challenge is not acted upon.
pub(crate) fn parse(header: &str) -> Option<Vec<Challenge>> {
    if header.len() > LONGEST_HEADER {
        return None;
    }
    let mut rest = Scanner { text: header };
    let mut challenges: Vec<Challenge> = Vec::new();
    loop {
        rest.skip(|c| c == ',' || is_space(c));
        if rest.text.is_empty() {
            return Some(challenges);
        }
        let word = rest.token()?;
        let after_word = rest.text;
        rest.skip(is_space);
        let is_parameter = rest.text.starts_with('=');
        match challenges.last_mut() {
            Some(challenge) if is_parameter => {
                rest.text = &rest.text[1..];
                rest.skip(is_space);
                let value = rest.value()?;
                if challenge.parameters.len() == MOST_PARAMETERS {
                    return None;
                }
                challenge
                    .parameters
                    .entry(word.to_ascii_lowercase())
                    .or_insert(value);
                rest.expect_end_of_item()?;
            }
            None if is_parameter => return None,
            _ => {
                if challenges.len() == MOST_CHALLENGES {
                    return None;
                }
                let parameters = BTreeMap::new();
                challenges.push(Challenge {
                    scheme: word.to_ascii_lowercase(),
                    parameters,
                });
                // A scheme is followed by a space and its parameters, by a comma, or by the end.
                let follows = after_word.chars().next();
                if follows.is_some_and(|c| c != ',' && !is_space(c)) {
                    return None;
                }
                rest.skip_token68();
            }
        }
    }
}

struct Scanner<'a> {
    text: &'a str,
}

impl<'a> Scanner<'a> {
    fn skip(&mut self, wanted: impl Fn(char) -> bool) {
        self.text = self.text.trim_start_matches(wanted);
    }

    fn token(&mut self) -> Option<&'a str> {
        let end = self.text.find(|c| !is_token(c)).unwrap_or(self.text.len());
        let (token, rest) = self.text.split_at(end);
        self.text = rest;
        (!token.is_empty()).then_some(token)
    }

    fn value(&mut self) -> Option<String> {
        let Some(quoted) = self.text.strip_prefix('"') else {
            return self.token().map(str::to_owned);
        };
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        while let Some((at, c)) = characters.next() {
            match c {
                '"' => {
                    self.text = &quoted[at + 1..];
                    return Some(value);
                }
                '\\' => value.push(characters.next()?.1),
                _ => value.push(c),
            }
        }
        None
    }

    fn expect_end_of_item(&mut self) -> Option<()> {
        self.skip(is_space);
        (self.text.is_empty() || self.text.starts_with(',')).then_some(())
    }

    /// Steps over what `Negotiate YII=` carries; it is of no use to us.
    fn skip_token68(&mut self) {
        let is_token68 = |c: char| c.is_ascii_alphanumeric() || "-._~+/".contains(c);
        let end = self
            .text
            .find(|c| !is_token68(c))
            .unwrap_or(self.text.len());
        let after = self.text[end..]
            .trim_start_matches('=')
            .trim_start_matches(is_space);
        if end > 0 && (after.is_empty() || after.starts_with(',')) {
            self.text = after;
        }
    }
}

fn is_space(c: char) -> bool {
    c == ' ' || c == '\t'
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(header: &str) -> Challenge {
        let mut challenges = parse(header).unwrap();
        assert_eq!(challenges.len(), 1, "{challenges:?}");
        challenges.remove(0)
    }

    #[test]
    fn the_challenge_of_docker_hub_is_read() {
        let challenge = one(
            "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",\
             scope=\"repository:library/nginx:pull,push\"",
        );
        assert_eq!(challenge.scheme, "bearer");
        assert_eq!(
            challenge.parameter("realm"),
            Some("https://auth.docker.io/token")
        );
        assert_eq!(
            challenge.parameter("scope"),
            Some("repository:library/nginx:pull,push")
        );
    }

    #[test]
    fn spaces_case_escapes_and_bare_values_are_read() {
        let challenge = one("bEARER  Realm = \"a\\\"b\" ,\tservice=plain");
        assert_eq!(challenge.parameter("realm"), Some("a\"b"));
        assert_eq!(challenge.parameter("service"), Some("plain"));
    }

    #[test]
    fn several_challenges_in_one_header_stay_apart() {
        let challenges = parse("Negotiate YII=, Basic realm=\"x\", Bearer realm=y, NTLM").unwrap();
        let schemes: Vec<_> = challenges.iter().map(|c| c.scheme.as_str()).collect();
        assert_eq!(schemes, ["negotiate", "basic", "bearer", "ntlm"]);
        assert_eq!(challenges[1].parameter("realm"), Some("x"));
        assert_eq!(challenges[2].parameter("realm"), Some("y"));
    }

    #[test]
    fn a_repeated_parameter_keeps_its_first_value() {
        assert_eq!(one("Bearer realm=a,realm=b").parameter("realm"), Some("a"));
    }

    #[test]
    fn malformed_and_oversized_headers_are_not_acted_upon() {
        for bad in [
            "Bearer realm=\"unterminated",
            "realm=\"no scheme\"",
            "Bearer realm=\"a\"service=\"b\"",
            "\"quoted\"",
            "Bearer;realm=a",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(
            parse(&format!("Bearer realm=\"{}\"", "x".repeat(9000))),
            None
        );
        assert_eq!(parse(&"Basic, ".repeat(9)), None);
    }

    proptest! {
        #[test]
        fn no_header_makes_the_parser_fail(header in "\\PC{0,200}") {
            let _ = parse(&header);
        }

        #[test]
        fn a_written_challenge_is_read_back(
            realm in "[ -~]{0,60}", service in "[a-z.]{1,20}", extra in "[a-z]{1,8}",
        ) {
            let quoted = realm.replace('\\', "\\\\").replace('"', "\\\"");
            let header = format!("Bearer realm=\"{quoted}\", service=\"{service}\", x{extra}=1");
            let challenges = parse(&header).unwrap();
            prop_assert_eq!(challenges[0].parameter("realm"), Some(realm.as_str()));
            prop_assert_eq!(challenges[0].parameter("service"), Some(service.as_str()));
        }
    }
}
