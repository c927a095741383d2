//! What a URL says: what the driver reads, and what is read here.

/// What the driver reads. (docs.rs/tokio-postgres, `Config`)
const DRIVERS: [&str; 18] = [
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "sslnegotiation",
    "host",
    "hostaddr",
    "port",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "target_session_attrs",
    "channel_binding",
    "load_balance_hosts",
];
/// What is read here.
const OURS: [&str; 3] = ["sslmode", "sslrootcert", "passfile"];

/// A URL in its parts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parts {
    /// For the driver.
    pub(super) driver: String,
    pub(super) sslmode: Option<String>,
    pub(super) sslrootcert: Option<String>,
    pub(super) passfile: Option<String>,
}

impl Parts {
    /// # Errors
    /// It is no PostgreSQL URL, or has parameters that nobody reads.
    pub(super) fn of(url: &str) -> Result<Parts, String> {
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err("it does not begin with postgres://".into());
        }
        // The first `@` ends user and password, which may have a `?`.
        let after = url.find('@').map_or(0, |at| at + 1);
        let Some(question) = url[after..].find('?').map(|at| after + at) else {
            return Ok(Parts { driver: url.into(), ..Parts::default() });
        };
        let mut parts = Parts { driver: url[..question].into(), ..Parts::default() };
        for parameter in url[question + 1..].split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').ok_or_else(|| format!("{parameter:?} has no value"))?;
            match name {
                "sslmode" => parts.sslmode = Some(decoded(value)?),
                "sslrootcert" => parts.sslrootcert = Some(decoded(value)?),
                "passfile" => parts.passfile = Some(decoded(value)?),
                _ if DRIVERS.contains(&name) => {
                    parts.driver.push(if parts.driver.len() == question { '?' } else { '&' });
                    parts.driver.push_str(parameter);
                }
                _ => return Err(unknown(name)),
            }
        }
        Ok(parts)
    }
}

fn unknown(name: &str) -> String {
    let known = DRIVERS.iter().chain(&OURS);
    let nearest =
        known.max_by(|one, other| strsim::jaro_winkler(name, one).total_cmp(&strsim::jaro_winkler(name, other)));
    match nearest.filter(|nearest| strsim::jaro_winkler(name, nearest) > 0.8) {
        Some(nearest) => format!("it has an unknown parameter {name:?}: did you mean {nearest:?}?"),
        None => format!("it has an unknown parameter {name:?}"),
    }
}

/// A text with `%41` for A.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or_else(|| format!("{text:?}: two hex digits follow a %"))?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| format!("{text:?} is no text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_driver_does_not_read_is_taken_out() {
        let url = "postgres://u:p?@h:1/d?sslmode=verify-full&application_name=x&sslrootcert=%2Fa%20b.pem&port=2";
        let parts = Parts::of(url).expect("a URL");
        assert_eq!(parts.driver, "postgres://u:p?@h:1/d?application_name=x&port=2");
        assert_eq!(parts.sslmode.as_deref(), Some("verify-full"));
        assert_eq!(parts.sslrootcert.as_deref(), Some("/a b.pem"));
        assert_eq!(Parts::of("postgres://h/d").expect("a URL").driver, "postgres://h/d");
    }

    #[test]
    fn unknown_parameters_and_other_texts_are_refused() {
        let words = Parts::of("postgres://h/d?sslmod=require").expect_err("misspelt");
        assert_eq!(words, "it has an unknown parameter \"sslmod\": did you mean \"sslmode\"?");
        for bad in [
            "h/d",
            "host=h",
            "postgres://h/d?x=1",
            "postgres://h/d?sslmode",
            "postgres://h/d?sslmode=%zz",
            "postgres://h/d?sslmode=%f",
        ] {
            assert!(Parts::of(bad).is_err(), "{bad}");
        }
    }
}
