//! PostgreSQL's password file: passwords that stand neither in a URL nor in the environment.
//! (postgresql.org/docs/15/libpq-pgpass.html)

use std::fs::File;
use std::io::Read;
use std::path::Path;

use tokio_postgres::Config;
use tokio_postgres::config::Host;

use crate::model::limits;

/// The password for where the configuration leads, from a file. A file that is not there has none; one that others may
/// read is left out with a warning, as by PostgreSQL's own programs.
pub(super) fn from_file(path: &Path, config: &Config, user: &str) -> Option<String> {
    let text = read(path)?;
    let (database, ports) = (config.get_dbname().unwrap_or(user), config.get_ports());
    config.get_hosts().iter().enumerate().find_map(|(i, host)| {
        let host = match host {
            Host::Tcp(host) => host.as_str(),
            #[cfg(unix)]
            Host::Unix(_) => "localhost",
        };
        let port = ports.get(i).or(ports.first()).copied().unwrap_or(5432).to_string();
        find(&text, [host, &port, database, user])
    })
}

fn read(path: &Path) -> Option<String> {
    let file = File::open(path).ok()?;
    let metadata = file.metadata().ok()?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        if metadata.permissions().mode() & 0o077 != 0 {
            let path = path.display();
            tracing::warn!("the password file {path} is not used: others may read it; `chmod 0600 {path}` mends it");
            return None;
        }
    }
    let mut text = String::new();
    let whole = metadata.is_file().then(|| file.take(limits::CONFIG_BYTES_MAX).read_to_string(&mut text))?;
    whole.ok().map(|_| text)
}

/// The password of the first line whose four fields fit; `*` fits everything, and a backslash takes away the meaning of
/// the next `:` or backslash.
fn find(text: &str, wanted: [&str; 4]) -> Option<String> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = fields(line);
        let (last, first) = fields.split_last().filter(|(_, first)| first.len() == wanted.len())?;
        let fits = first.iter().zip(wanted).all(|((field, plain), wanted)| field == wanted || (*plain && field == "*"));
        fits.then(|| last.0.clone())
    })
}

/// The fields of a line, and whether each stands there without backslashes. The last one, the password, is the fifth.
fn fields(line: &str) -> Vec<(String, bool)> {
    let mut fields = vec![(String::new(), true)];
    let mut chars = line.trim_end_matches('\r').chars();
    while let Some(c) = chars.next() {
        let more = fields.len() < 5;
        let (field, plain) = fields.last_mut().expect("there is one always");
        match c {
            '\\' => {
                field.extend(chars.next());
                *plain = false;
            }
            ':' if more => fields.push((String::new(), true)),
            c => field.push(c),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let text = "# h:1:d:u:comment\nh:1:d:other:no\nh:2:*:u:two\n\\*:1:d:u:star\nh:1:d:u:a\\:b\\\\c:d\nh:*:*:*:late\nshort\n";
        let password = |host, port, database, user| find(text, [host, port, database, user]);
        assert_eq!(password("h", "1", "d", "u").as_deref(), Some("a:b\\c:d"));
        assert_eq!(password("h", "2", "any", "u").as_deref(), Some("two"));
        assert_eq!(password("h", "3", "x", "y").as_deref(), Some("late"));
        assert_eq!(password("other", "1", "d", "u"), None);
    }
    #[cfg(unix)]
    #[test]
    fn a_file_that_others_may_read_is_left_out() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("pgpass");
        std::fs::write(&path, "other:1:d:u:no\nh:1:d:u:secret\n").expect("written");
        let config: Config = "postgres://u@h:1/d".parse().expect("a URL");
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("changed");
        mode(0o644);
        assert_eq!(from_file(&path, &config, "u"), None);
        mode(0o600);
        assert_eq!(from_file(&path, &config, "u").as_deref(), Some("secret"));
        assert_eq!(from_file(&dir.path().join("none"), &config, "u"), None);
    }
}
