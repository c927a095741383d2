//! TLS: who is let in, who is believed, and certificates that are renewed.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use super::*;
use crate::tree::site::wait;

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").current_dir(folder).args(arguments.split(' ')).output().expect("openssl runs");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Two authorities, `ca` and `other`, a certificate for this machine of each (`by-ca`, `by-other`), and one that signed itself.
fn certificates(folder: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    std::fs::write(
        folder.join("names"),
        "subjectAltName=DNS:localhost,DNS:hub.test,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n",
    )
    .expect("written");
    for name in ["ca", "other"] {
        openssl(folder, &format!("req -x509 {key} -keyout {name}.key -out {name}.pem -subj /CN={name} -days 2"));
        openssl(folder, &format!("req {key} -keyout by-{name}.key -out {name}.csr -subj /CN=node"));
        let sign = format!("x509 -req -in {name}.csr -CA {name}.pem -CAkey {name}.key -CAcreateserial -days 2");
        openssl(folder, &format!("{sign} -extfile names -out by-{name}.pem"));
    }
    openssl(
        folder,
        &format!(
            "req -x509 {key} -keyout self.key -out self.pem -subj /CN=self -addext subjectAltName=DNS:localhost -days 2"
        ),
    );
}

/// Has the node show one of them from its next start, or SIGHUP, on.
fn show(site: &Site, name: &str) {
    for ending in ["pem", "key"] {
        let from = site.dir.join(format!("{name}.{ending}"));
        std::fs::copy(from, site.dir.join(format!("shown.{ending}"))).expect("copied");
    }
}

const TLS: &str = "tls = { cert_file = \"shown.pem\", key_file = \"shown.key\" }\n";

/// A node with TLS that runs.
pub fn secured(ground: &Ground, more: &str) -> Site {
    let mut site = ground.log_site("hub");
    certificates(&site.dir);
    show(&site, "by-ca");
    site.configure(None, ORDERS);
    node_lines(&site, &format!("{TLS}{more}"));
    site.start();
    site.wait_log("runs and listens on");
    site
}

/// `curl` of a path, which knows that authority.
fn curl(site: &Site, authority: &str, path: &str, more: &[&str]) -> Output {
    let url = format!("https://localhost:{}{path}", site.port);
    let authority = site.dir.join(authority);
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "20", "--noproxy", "*", "--resolve"]);
    command.arg(format!("localhost:{}:127.0.0.1", site.port)).arg("--cacert").arg(authority).args(more).arg(url);
    command.output().expect("curl is installed")
}

fn is_fine(output: &Output) -> bool {
    output.status.success() && output.stdout == b"ok\n"
}

#[test]
fn a_node_speaks_tls_with_who_knows_its_authority_and_with_its_own_commands() {
    let ground = Ground::new();
    let site = secured(&ground, "");
    assert!(is_fine(&curl(&site, "ca.pem", "/healthz", &[])));
    assert!(is_fine(&curl(&site, "ca.pem", "/healthz", &["--tlsv1.2", "--tls-max", "1.2"])));
    assert_eq!(curl(&site, "other.pem", "/healthz", &[]).status.code(), Some(60), "an authority that did not sign it");
    let old = curl(&site, "ca.pem", "/healthz", &["--tlsv1.0", "--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0"]);
    assert!(!old.status.success());
    // Who takes it for plain HTTP is told.
    let (status, told) = answer(agent().get(format!("http://127.0.0.1:{}/healthz", site.port)).call());
    assert_eq!((status, &told["code"]), (400, &"WS-HTTP-025".into()), "{told}");
    assert!(site.does(&["log", "append", "orders", "{\"n\":1}"]).contains('1'));
    assert!(site.does(&["log", "read", "orders", "--json"]).contains("\"position\":1"));
    assert!(site.does(&["status"]).contains("hub"));
    // The commands believe nobody else: here an impostor's certificate stands where the node left its own.
    let left = site.data().join("admin.certificate");
    openssl(&site.dir, "x509 -in by-other.pem -outform DER -out impostor");
    std::fs::copy(site.dir.join("impostor"), left).expect("copied");
    assert_eq!(site.watershed(&["status"]).status.code(), Some(4));
}

#[test]
fn a_certificate_is_renewed_under_way_and_a_bad_one_is_rejected_whole() {
    let ground = Ground::new();
    let site = secured(&ground, "");
    let url = format!("https://localhost:{}/v1/logs/orders/entries?after=0", site.port);
    let mut reader = Command::new("curl")
        .args(["-sN", "--max-time", "50", "--noproxy", "*", "-H", "Accept: text/event-stream", "--resolve"])
        .arg(format!("localhost:{}:127.0.0.1", site.port))
        .arg("--cacert")
        .arg(site.dir.join("ca.pem"))
        .arg(url)
        .stdout(Stdio::piped())
        .spawn()
        .expect("curl is installed");
    let mut lines = BufReader::new(reader.stdout.take().expect("stdout")).lines();
    let mut until = |text: &str| lines.by_ref().any(|line| line.is_ok_and(|line| line.contains(text)));
    assert!(until("current"), "the stream begins");
    show(&site, "by-other");
    site.reload();
    site.wait_log("shows the certificate as it is in its file now");
    assert!(is_fine(&curl(&site, "other.pem", "/healthz", &[])));
    assert!(!is_fine(&curl(&site, "ca.pem", "/healthz", &[])));
    // Its own commands know the new one; who was reading goes on.
    site.does(&["log", "append", "orders", "{\"after\":\"renewal\"}"]);
    assert!(until("renewal"), "the stream goes on");
    let _ = reader.kill();
    let _ = reader.wait();
    for (file, content) in [("shown.pem", "no certificate"), ("shown.key", "no key"), ("shown.key", "")] {
        show(&site, "by-ca");
        std::fs::write(site.dir.join(file), content).expect("written");
        let before = site.log().matches("is not reloaded").count();
        site.reload();
        wait("it is rejected", || site.log().matches("is not reloaded").count() > before);
        assert!(is_fine(&curl(&site, "other.pem", "/healthz", &[])), "{file}: {content}");
    }
    // The key of another certificate.
    show(&site, "by-ca");
    std::fs::copy(site.dir.join("by-other.key"), site.dir.join("shown.key")).expect("copied");
    let before = site.log().matches("is not reloaded").count();
    site.reload();
    wait("it is rejected", || site.log().matches("is not reloaded").count() > before);
    assert!(is_fine(&curl(&site, "other.pem", "/healthz", &[])));
}

#[test]
fn what_would_be_open_to_everybody_does_not_start() {
    let ground = Ground::new();
    let mut site = ground.log_site("hub");
    certificates(&site.dir);
    show(&site, "by-ca");
    let everywhere = |site: &Site, lines: &str| {
        let text = std::fs::read_to_string(site.config()).expect("a configuration");
        std::fs::write(site.config(), text.replace("listen = \"127.0.0.1", &format!("{lines}listen = \"0.0.0.0")))
            .expect("written");
    };
    let token = "tokens = [{ name = \"t\", token_file = \"t.token\", may = [\"read:*\"] }]\n";
    std::fs::write(site.dir.join("t.token"), "t-secret\n").expect("written");
    for lines in ["", TLS, token, "allow_plaintext = true\n"] {
        site.configure(None, ORDERS);
        everywhere(&site, lines);
        site.start();
        assert_eq!(site.ended(), Some(3), "{lines}");
    }
    site.configure(None, ORDERS);
    everywhere(&site, &format!("allow_plaintext = true\n{token}"));
    site.start();
    site.wait_log("without TLS (allow_plaintext)");
    site.wait_healthy();
    // By whatever name it is asked; but a token it wants to see, and pages of others get nothing.
    let get = |headers: &[(&str, &str)]| {
        let mut request = agent().get(format!("http://127.0.0.1:{}/v1/logs/orders/entries", site.port));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(request.call()).0
    };
    assert_eq!(get(&[("Host", "hub.example")]), 401);
    assert_eq!(get(&[("Host", "hub.example"), ("Authorization", "Bearer t-secret")]), 200);
    assert_eq!(get(&[("Origin", "https://evil.example"), ("Authorization", "Bearer t-secret")]), 403);
    // The problems of a node are for who may see them.
    assert!(site.does(&["log", "ls"]).contains("orders"));
}

#[test]
fn handshakes_that_do_not_come_to_their_end_are_given_up_and_hold_up_nobody() {
    let ground = Ground::new();
    let site = secured(&ground, "");
    let opened = Instant::now();
    let mut half: Vec<TcpStream> = Vec::new();
    for n in 0..200 {
        let mut stream = TcpStream::connect(("127.0.0.1", site.port)).expect("connects");
        // Nothing, or the beginning of a handshake.
        stream.write_all(&b"\x16\x03\x01\x02\x00\x01"[..n % 7]).expect("sent");
        half.push(stream);
    }
    assert!(is_fine(&curl(&site, "ca.pem", "/healthz", &[])));
    for mut stream in half {
        stream.set_read_timeout(Some(Duration::from_secs(40))).expect("set");
        let mut rest = Vec::new();
        // Closed, in whichever way.
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
    assert!(opened.elapsed() >= Duration::from_secs(9));
    for noise in [&b"\x16\x03\x01\xff\xff"[..], &[0x80; 600], &[0; 20_000]] {
        let mut stream = TcpStream::connect(("127.0.0.1", site.port)).expect("connects");
        let _ = stream.write_all(noise);
        stream.set_read_timeout(Some(Duration::from_secs(40))).expect("set");
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert!(is_fine(&curl(&site, "ca.pem", "/healthz", &[])));
    assert!(!site.log().contains("panicked"), "{}", site.log());
}

/// A child of a node that speaks TLS, configured.
pub fn child_file(ground: &Ground, name: &str, hub: &Site, host: &str, lines: &str) -> Site {
    let mut site = ground.log_site(name);
    site.configure(None, "");
    let mut text = std::fs::read_to_string(site.config()).expect("a configuration");
    let (hub_dir, port) = (hub.dir.display().to_string(), hub.port);
    text.push_str(&format!("[parent]\nurl = \"wss://{host}:{port}\"\nretry = {{ first = \"0.1s\", max = \"1s\" }}\n"));
    text.push_str(&lines.replace("HUB", &hub_dir));
    std::fs::write(site.config(), text).expect("written");
    site
}

/// The same, which runs.
fn child(ground: &Ground, name: &str, hub: &Site, lines: &str) -> Site {
    let mut site = child_file(ground, name, hub, "localhost", lines);
    site.up();
    site
}

#[test]
fn a_child_proves_its_name() {
    let ground = Ground::new();
    let hub = ground.log_site("hub");
    for (name, secret) in [("north", "n-secret"), ("eye", "e-secret")] {
        std::fs::write(hub.dir.join(format!("{name}.token")), secret).expect("written");
    }
    drop(hub);
    let tokens = "tokens = [{ name = \"north\", token_file = \"north.token\", may = [\"peer:north\"] }, \
                  { name = \"eye\", token_file = \"eye.token\", may = [\"read:*\"] }]\n";
    let hub = secured(&ground, tokens);
    let own = "ca_file = \"HUB/ca.pem\"\ntoken_file = \"HUB/north.token\"\n";
    let north = child(&ground, "north", &hub, own);
    north.wait_log("linked with the parent hub");
    assert!(north.does(&["check"]).contains("linked with this node"));
    for (name, lines, code) in [
        ("south", own, "WS-NODE-025"),
        ("nobody", "ca_file = \"HUB/ca.pem\"\n", "WS-PEER-021"),
        ("reader", "ca_file = \"HUB/ca.pem\"\ntoken_file = \"HUB/eye.token\"\n", "WS-PEER-021"),
        ("guesser", "ca_file = \"HUB/ca.pem\"\ntoken_file = \"HUB/names\"\n", "WS-PEER-021"),
        ("stranger", "ca_file = \"HUB/other.pem\"\ntoken_file = \"HUB/north.token\"\n", "WS-PEER-022"),
    ] {
        if lines.contains("names") {
            std::fs::write(hub.dir.join("names"), "x-secret").expect("written");
        }
        let site = child(&ground, name, &hub, lines);
        site.wait_log(code);
        assert!(!site.log().contains("linked with the parent"), "{name}: {}", site.log());
        assert!(!site.log().contains("-secret"), "a secret was logged");
    }
    assert!(!hub.log().contains("-secret") && !hub.log().contains("child south"), "{}", hub.log());
    let status: Json = serde_json::from_str(&hub.does(&["status", "--json"])).expect("JSON");
    let links = status["links"].as_array().expect("links");
    assert!(links.iter().any(|link| link["name"] == "north" && link["state"] == "connected"), "{status}");
}

#[test]
fn a_certificate_is_for_the_name_that_is_dialled_and_may_be_known_itself() {
    let ground = Ground::new();
    let hub = secured(&ground, "");
    let north = child(&ground, "north", &hub, "ca_file = \"HUB/by-ca.pem\"\n");
    north.wait_log("linked with the parent hub");
    // The one that signed itself is for localhost, not for the address.
    show(&hub, "self");
    hub.reload();
    hub.wait_log("shows the certificate as it is");
    let south = child(&ground, "south", &hub, "ca_file = \"HUB/self.pem\"\n");
    south.wait_log("linked with the parent hub");
    let mut west = child_file(&ground, "west", &hub, "127.0.0.1", "ca_file = \"HUB/self.pem\"\n");
    west.up();
    west.wait_log("WS-PEER-022");
}

#[test]
fn a_mirror_shows_its_token_to_an_original_that_it_believes() {
    let ground = Ground::new();
    let hub = ground.log_site("hub");
    std::fs::write(hub.dir.join("copy.token"), "c-secret").expect("written");
    drop(hub);
    let hub =
        secured(&ground, "tokens = [{ name = \"copy\", token_file = \"copy.token\", may = [\"read:orders\"] }]\n");
    hub.does(&["log", "append", "orders", "{\"n\":1}"]);
    let mut north = ground.log_site("north");
    let (dir, port) = (hub.dir.display(), hub.port);
    north.configure(
        None,
        &format!(
            "[log.orders]\nmirror = \"https://localhost:{port}/v1/logs/orders\"\ntoken_file = \"{dir}/copy.token\"\n\
             ca_file = \"{dir}/by-ca.pem\"\n"
        ),
    );
    north.up();
    wait("it is mirrored", || get(&north, "orders/entries").1.to_string().contains("position"));
    hub.does(&["log", "append", "orders", "{\"n\":2}"]);
    wait("it goes on", || get(&north, "orders").1["tail"] == 2);
}
