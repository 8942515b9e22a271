//! Which names the admin port answers to. A web page can make a name of its own lead to
//! this port (DNS rebinding), and a browser on the operator's machine would then read
//! the answers for it; what it cannot do is make the browser say another name than that.
//!
//! Addresses and `localhost` always pass: no page comes from there that this machine did
//! not serve. A request without a name is of no browser.

use std::net::{IpAddr, Ipv6Addr};

use axum::{
    extract::Request,
    http::{header, uri::Authority},
};

/// The names that pass, in lower case.
pub(super) struct Hosts(Vec<String>);

impl Hosts {
    pub(super) fn new(names: Vec<String>) -> Self {
        Self(
            names
                .into_iter()
                .map(|name| name.to_ascii_lowercase())
                .collect(),
        )
    }

    /// Whether a request is for a name that passes, wherever it says so.
    pub(super) fn take(&self, request: &Request) -> bool {
        let in_target = request.uri().authority().map(|name| self.passes(name));
        let in_headers = request.headers().get_all(header::HOST).iter().map(|value| {
            let name = value.to_str().ok().and_then(|text| text.parse().ok());
            name.is_some_and(|name| self.passes(&name))
        });
        in_target.into_iter().chain(in_headers).all(|passes| passes)
    }

    fn passes(&self, authority: &Authority) -> bool {
        let host = authority.host();
        let v6 = || {
            host.strip_prefix('[')?
                .strip_suffix(']')?
                .parse::<Ipv6Addr>()
                .ok()
        };
        host.parse::<IpAddr>().is_ok()
            || v6().is_some()
            || host.eq_ignore_ascii_case("localhost")
            || self.0.iter().any(|name| host.eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn takes(target: &str, hosts: &[&str]) -> bool {
        let mut request = Request::get(target);
        for host in hosts {
            request = request.header("Host", *host);
        }
        let hosts = Hosts::new(vec!["Chat.internal".into()]);
        hosts.take(&request.body(Body::empty()).unwrap())
    }

    #[test]
    fn a_web_page_reached_the_admin_port_under_a_name_of_its_own() {
        for good in [
            "127.0.0.1",
            "127.0.0.1:7444",
            "10.2.3.4:7444",
            "[::1]:7444",
            "[::1]",
            "localhost",
            "LocalHost:7444",
            "chat.internal:7444",
        ] {
            assert!(takes("/metrics", &[good]), "{good}");
        }
        for bad in [
            "evil.example",
            "evil.example:7444",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "notlocalhost",
            "chat.internal.evil.example",
            "0x7f.1",
            "",
            "a b",
            "[::1",
        ] {
            assert!(!takes("/metrics", &[bad]), "{bad}");
        }
        assert!(takes("/metrics", &[]), "HTTP/1.0 of a probe");
        assert!(!takes("/metrics", &["localhost", "evil.example"]));
        assert!(!takes("http://evil.example/metrics", &["localhost"]));
        assert!(takes("http://localhost/metrics", &["localhost"]));
    }
}
