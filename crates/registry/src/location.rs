//! Where a request goes, and whether it may go there.
//!
//! Every address that a server gives us (a redirect, a token realm, an upload location, a foreign
//! layer's URL) is read here and judged here, by two questions that are kept apart:
//!
//! - [`visit`]: may we go there at all? Never from HTTPS down to plain HTTP, and never from a
//!   remote registry to an address of this very machine or link.
//! - [`may_learn_credentials`]: may that host see what the user entrusted to the registry? Only
//!   the registry's own host, or one under the same domain owner.

use std::fmt;
use std::net::IpAddr;

use thiserror::Error;
use ureq::http::Uri;

/// Scheme, host and port: what a credential or a connection belongs to.
///
/// See RFC 6454 section 4. The host is in lower case; an IPv6 address keeps its brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    pub(crate) is_https: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Origin {
    /// Splits `host`, `host:port` or `[address]:port`, as it stands in a reference.
    ///
    /// # Errors
    /// [`LocationError::Malformed`] when it is neither.
    pub(crate) fn of_host(host_and_port: &str, is_https: bool) -> Result<Origin, LocationError> {
        let scheme = if is_https { "https" } else { "http" };
        Ok(Location::parse(&format!("{scheme}://{host_and_port}/"))?.origin)
    }

    /// Whether connections to this origin stay on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self.host.ends_with(".localhost")
            || self.address().is_some_and(|address| address.is_loopback())
    }

    fn is_link_local(&self) -> bool {
        self.address().is_some_and(|address| match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        })
    }

    fn is_unspecified(&self) -> bool {
        self.address()
            .is_some_and(|address| address.is_unspecified())
    }

    pub(crate) fn address(&self) -> Option<IpAddr> {
        let bare = self
            .host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let address: IpAddr = bare.unwrap_or(&self.host).parse().ok()?;
        Some(address.to_canonical())
    }

    /// `host`, or `host:port` where the port is not the scheme's own.
    pub(crate) fn host_and_port(&self) -> String {
        if self.port == if self.is_https { 443 } else { 80 } {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.host_and_port())
    }
}

/// An absolute HTTP or HTTPS URL without user information or fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) origin: Origin,
    pub(crate) uri: Uri,
}

/// Why an address is not used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LocationError {
    /// It cannot be read.
    #[error("malformed address `{address}`")]
    Malformed {
        /// The address, cut short and without control characters.
        address: String,
    },
    /// It is of a scheme that is neither `http` nor `https`.
    #[error("address `{address}` is neither http nor https")]
    Scheme {
        /// The address.
        address: String,
    },
    /// It carries a user name or a password.
    #[error("address on {origin} carries user information")]
    UserInformation {
        /// The host it leads to.
        origin: Origin,
    },
    /// It leads from an encrypted connection to a clear one.
    #[error("{from} leads to {to}, which is not encrypted")]
    Downgrade {
        /// Who named the address.
        from: Origin,
        /// Where it leads.
        to: Origin,
    },
    /// A remote host names an address of this machine or of its link.
    #[error("{from} leads to {to}, an address that only this machine can reach")]
    Inward {
        /// Who named the address.
        from: Origin,
        /// Where it leads.
        to: Origin,
    },
}

impl Location {
    pub(crate) fn parse(text: &str) -> Result<Location, LocationError> {
        let malformed = || LocationError::Malformed {
            address: printable(text, 200),
        };
        let text = text.split('#').next().unwrap_or(text);
        let uri: Uri = text.parse().map_err(|_| malformed())?;
        let is_https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) => {
                return Err(LocationError::Scheme {
                    address: printable(text, 200),
                });
            }
            None => return Err(malformed()),
        };
        let authority = uri.authority().ok_or_else(malformed)?;
        let host = authority.host().to_ascii_lowercase();
        if host.is_empty() || host.contains(['/', '\\', '%']) || host.starts_with('.') {
            return Err(malformed());
        }
        // `host:` and `host:99999` are accepted by the parser, with no port to be had.
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str().ends_with(authority.host()) => {
                if is_https {
                    443
                } else {
                    80
                }
            }
            None => return Err(malformed()),
        };
        let origin = Origin {
            is_https,
            host,
            port,
        };
        if authority.as_str().contains('@') {
            return Err(LocationError::UserInformation { origin });
        }
        Ok(Location { origin, uri })
    }

    /// The resource `path` (with its leading `/`, and a query perhaps) on `origin`.
    pub(crate) fn on(origin: &Origin, path: &str) -> Result<Location, LocationError> {
        Location::parse(&format!("{origin}{path}"))
    }

    /// Resolves what a `Location` header says, absolute or relative (RFC 9110 section 10.2.2).
    pub(crate) fn join(&self, reference: &str) -> Result<Location, LocationError> {
        let scheme = if self.origin.is_https {
            "https"
        } else {
            "http"
        };
        let path = self.uri.path();
        if let Some(rest) = reference.strip_prefix("//") {
            Location::parse(&format!("{scheme}://{rest}"))
        } else if reference.starts_with('/') {
            Location::parse(&format!("{}{reference}", self.origin))
        } else if reference.starts_with('?') {
            Location::parse(&format!("{}{path}{reference}", self.origin))
        } else if has_scheme(reference) {
            Location::parse(reference)
        } else {
            let folder = &path[..=path.rfind('/').unwrap_or(0)];
            Location::parse(&format!("{}{folder}{reference}", self.origin))
        }
    }

    /// The same address with more parameters in its query.
    pub(crate) fn with_query(
        &self,
        parameters: &[(&str, &str)],
    ) -> Result<Location, LocationError> {
        let mut text = self.uri.to_string();
        for (name, value) in parameters {
            text.push(if text.contains('?') { '&' } else { '?' });
            text.push_str(&encoded(name));
            text.push('=');
            text.push_str(&encoded(value));
        }
        Location::parse(&text)
    }

    /// For messages: without the query, which may hold a signature or a token.
    pub(crate) fn shown(&self) -> String {
        format!("{}{}", self.origin, printable(self.uri.path(), 300))
    }
}

fn has_scheme(reference: &str) -> bool {
    reference.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    })
}

/// Percent-encodes everything but the unreserved characters of RFC 3986 section 2.3.
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// What a server said, made fit for a terminal: no control characters, at most `limit` characters.
pub(crate) fn printable(text: &str, limit: usize) -> String {
    let mut shown: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .filter(|c| !matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}'))
        .take(limit)
        .collect();
    if text.chars().nth(limit).is_some() {
        shown.push('…');
    }
    shown
}

/// Whether `from`, which we trust as far as it was asked for by name, may send us to `to`.
///
/// `is_insecure` says whether the user allowed an unencrypted connection to `to`.
///
/// # Errors
/// [`LocationError::Downgrade`] or [`LocationError::Inward`].
pub(crate) fn visit(from: &Origin, to: &Origin, is_insecure: bool) -> Result<(), LocationError> {
    if from == to {
        return Ok(());
    }
    let refused =
        |refusal: fn(Origin, Origin) -> LocationError| Err(refusal(from.clone(), to.clone()));
    let plain_is_allowed = !from.is_https && (to.is_loopback() || is_insecure);
    if !to.is_https && !plain_is_allowed {
        return refused(|from, to| LocationError::Downgrade { from, to });
    }
    let is_inward = to.is_loopback() || to.is_link_local() || to.is_unspecified();
    if is_inward && !from.is_loopback() && from.host != to.host {
        return refused(|from, to| LocationError::Inward { from, to });
    }
    Ok(())
}

/// Whether `realm`, which the registry at `registry` names as the place where tokens are issued,
/// may be shown the credentials that the user keeps for that registry.
///
/// It may when it is the same host (any port), an ancestor or a descendant in the DNS, or any host
/// under the same registrable domain (`auth.docker.io` for `registry-1.docker.io`; the public
/// suffix list says what is registrable). Others have to be named in `token-hosts` of the
/// configuration.
pub(crate) fn may_learn_credentials(registry: &Origin, realm: &Origin, allowed: &[String]) -> bool {
    let (registry_host, realm_host) = (registry.host.as_str(), realm.host.as_str());
    if registry_host == realm_host || (registry.is_loopback() && realm.is_loopback()) {
        return true;
    }
    let is_named = |allowed: &String| {
        allowed.eq_ignore_ascii_case(realm_host)
            || allowed.eq_ignore_ascii_case(&realm.host_and_port())
    };
    if allowed.iter().any(is_named) {
        return true;
    }
    if registry.address().is_some() || realm.address().is_some() {
        return false;
    }
    match (psl::domain_str(registry_host), psl::domain_str(realm_host)) {
        (Some(ours), Some(theirs)) => ours == theirs,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn origin(text: &str) -> Origin {
        Location::parse(text).unwrap().origin
    }

    #[test]
    fn a_location_header_is_resolved_as_a_browser_would() {
        let base = Location::parse("https://reg.test:5000/v2/a/blobs/uploads/?x=1").unwrap();
        let joined = |reference: &str| base.join(reference).unwrap().uri.to_string();
        assert_eq!(joined("/v2/up?s=1"), "https://reg.test:5000/v2/up?s=1");
        assert_eq!(
            joined("abc?d"),
            "https://reg.test:5000/v2/a/blobs/uploads/abc?d"
        );
        assert_eq!(joined("//other.test/x"), "https://other.test/x");
        assert_eq!(joined("http://other.test/x#f"), "http://other.test/x");
        assert_eq!(joined("?y"), "https://reg.test:5000/v2/a/blobs/uploads/?y");
    }

    #[test]
    fn addresses_that_hide_their_host_are_refused() {
        for bad in [
            "https://registry.test@evil.test/",
            "https://user:secret@evil.test/",
            "ftp://a.test/",
            "file:///etc/passwd",
            "https:///x",
            "https://a.test:99999/",
            "https://a.test:/",
            "https://.a.test/",
            "https://a b/",
            "relative",
            "",
        ] {
            assert!(Location::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn encryption_is_never_dropped_and_remote_hosts_never_lead_inward() {
        let https = origin("https://registry.test/");
        let cases = [
            ("https://registry.test/", "http://registry.test/", false),
            ("https://registry.test/", "https://cdn.test/", true),
            ("https://registry.test/", "https://127.0.0.1/", false),
            (
                "https://registry.test/",
                "https://[::ffff:127.0.0.1]/",
                false,
            ),
            ("https://registry.test/", "https://169.254.169.254/", false),
            ("https://registry.test/", "http://169.254.169.254/", false),
            ("https://registry.test/", "https://0.0.0.0/", false),
            ("http://127.0.0.1:5000/", "http://127.0.0.1:5001/", true),
            ("http://127.0.0.1:5000/", "http://localhost:5001/", true),
            ("http://127.0.0.1:5000/", "http://cdn.test/", false),
            ("http://127.0.0.1:5000/", "https://cdn.test/", true),
        ];
        for (from, to, expected) in cases {
            let answer = visit(&origin(from), &origin(to), false);
            assert_eq!(answer.is_ok(), expected, "{from} -> {to}: {answer:?}");
        }
        assert!(visit(&https, &origin("http://cdn.test/"), true).is_err());
        let plain = origin("http://lab.test:5000/");
        assert!(visit(&plain, &origin("http://cdn.test/"), true).is_ok());
    }

    #[test]
    fn credentials_go_to_the_registry_or_to_its_domain_owner_only() {
        let cases = [
            ("registry-1.docker.io", "auth.docker.io", true),
            ("registry.gitlab.com", "gitlab.com", true),
            ("ghcr.io", "ghcr.io", true),
            (
                "registry.cn-hangzhou.aliyuncs.com",
                "dockerauth.cn-hangzhou.aliyuncs.com",
                true,
            ),
            ("registry.company.co.uk", "login.company.co.uk", true),
            ("registry.company.co.uk", "evil.co.uk", false),
            ("victim.github.io", "evil.github.io", false),
            ("docker.io", "docker.io.evil.test", false),
            ("docker.io", "evildocker.io", false),
            ("10.0.0.1", "10.0.0.2", false),
            ("127.0.0.1", "localhost", true),
            ("127.0.0.1", "evil.test", false),
            ("localhost", "evil.test", false),
            ("registry", "registry2", false),
        ];
        for (registry, realm, expected) in cases {
            let registry = Origin::of_host(registry, true).unwrap();
            let realm = Origin::of_host(realm, true).unwrap();
            let answer = may_learn_credentials(&registry, &realm, &[]);
            assert_eq!(answer, expected, "{registry} -> {realm}");
        }
        let registry = Origin::of_host("rg.fr-par.scw.cloud", true).unwrap();
        let realm = Origin::of_host("api.scaleway.com", true).unwrap();
        assert!(!may_learn_credentials(&registry, &realm, &[]));
        assert!(may_learn_credentials(
            &registry,
            &realm,
            &["api.scaleway.com".into()]
        ));
    }

    #[test]
    fn what_a_server_says_cannot_drive_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\nc\u{202e}", 20), "a [2Jb c");
        assert_eq!(printable("abcdef", 3), "abc…");
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_names_one_host_only(text in "https?://[a-z0-9.@:/\\[\\]?#%\\\\ -]{0,40}") {
            if let Ok(location) = Location::parse(&text) {
                prop_assert!(!location.origin.host.contains(['@', '/', '\\', ' ']));
                // Reading what we would send gives the same place again.
                let again = Location::parse(&location.uri.to_string()).unwrap();
                prop_assert_eq!(again.origin, location.origin);
            }
        }

        #[test]
        fn joining_never_panics(base in "https://a\\.test/[a-z/]{0,10}", reference in "\\PC{0,60}") {
            let _ = Location::parse(&base).unwrap().join(&reference);
        }
    }
}
