//! Settings that must go together.

use super::{Problem, Settings, all_loopback};

/// How the node is to be run, as far as safety depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// WebSockets without TLS are accepted.
    pub plain: bool,
    /// There is a certificate, or `dev` makes one.
    pub tls: bool,
}

impl Settings {
    /// What follows from several settings together.
    #[must_use]
    pub fn mode(&self) -> Mode {
        let loopback = all_loopback(&self.listen);
        Mode {
            plain: self.tls.allow_plain.unwrap_or(loopback),
            tls: self.tls.certificate.is_some() || self.dev,
        }
    }

    /// Places that only a valid token gets, of so many: all but one at most.
    #[must_use]
    pub fn reserved_of(&self, connections: usize) -> usize {
        let tenth = connections / 10;
        self.edge.reserved.unwrap_or(tenth).min(connections - 1)
    }

    /// Time for clients to leave when the node stops.
    #[must_use]
    pub fn drain_timeout_ms(&self) -> u64 {
        self.edge
            .drain_timeout_ms
            .unwrap_or(if self.dev { 1_000 } else { 10_000 })
    }
}

pub(super) fn together(settings: &Settings, problems: &mut Vec<Problem>) {
    let mut wrong = |problem: &str| problems.push(Problem::Together(problem.into()));
    let auth = &settings.auth;
    if settings.listen.is_empty() {
        wrong("`listen` names no address: clients would find nobody");
    }
    if settings.dev && !(all_loopback(&settings.listen) && settings.admin.listen.ip().is_loopback())
    {
        wrong(
            "`dev` accepts anybody as anybody, so every address must be on loopback: \
             set `listen` and `admin.listen` to 127.0.0.1, or leave `dev` off",
        );
    }
    if !settings.dev && auth.jwks_file.is_none() && auth.jwks_url.is_none() {
        wrong(
            "nobody could log in: set `auth.jwks_file` or `auth.jwks_url` to the keys that sign \
             tokens, or start with --dev to try chatd on this machine",
        );
    }
    if auth.jwks_file.is_some() && auth.jwks_url.is_some() {
        wrong("`auth.jwks_file` and `auth.jwks_url` are both set: keep one of them");
    }
    if auth.audience.iter().all(String::is_empty) {
        wrong("`auth.audience` is empty: tokens for any other service would be accepted");
    }
    if settings.tls.certificate.is_some() != settings.tls.key.is_some() {
        wrong("`tls.certificate` and `tls.key` belong together: set both or none");
    }
    let mode = settings.mode();
    if !mode.plain && !mode.tls {
        wrong(
            "clients could not connect: set `tls.certificate` and `tls.key`, or \
             `tls.allow_plain: true` behind a proxy that ends TLS",
        );
    }
    if !settings.admin.listen.ip().is_loopback() && settings.admin.token_file.is_none() {
        wrong(
            "`admin.listen` can be reached from other machines, so it needs `admin.token_file`; \
             or set it to 127.0.0.1",
        );
    }
    if settings.limits.sends_burst < settings.limits.sends_per_second {
        wrong("`limits.sends_burst` must be at least `limits.sends_per_second`");
    }
    if settings.edge.connects_burst < settings.edge.connects_per_second {
        wrong("`edge.connects_burst` must be at least `edge.connects_per_second`");
    }
    if settings
        .edge
        .reserved
        .is_some_and(|places| places >= settings.edge.max_connections)
    {
        wrong(
            "`edge.reserved` must be below `edge.max_connections`: every client has to come in \
             before it can show its token",
        );
    }
    if settings.log.resume_free_bytes < settings.log.stop_free_bytes {
        wrong("`log.resume_free_bytes` must be at least `log.stop_free_bytes`");
    }
    if settings.log.budget_bytes / 6 < settings.log.file_bytes {
        wrong("`log.budget_bytes` must hold at least six files of `log.file_bytes`");
    }
    if settings.limits.frame_bytes < settings.cluster.content_bytes.saturating_add(464) {
        wrong("`limits.frame_bytes` must hold a content of `cluster.content_bytes` and 464 bytes");
    }
}
