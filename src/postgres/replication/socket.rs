//! A socket to a server, as an [`Endpoint`] says: which host, which TLS.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, SslNegotiation};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};

use super::ReplicationError;
use crate::postgres::Endpoint;

/// Bytes both ways.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// One of the places that an endpoint names.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// What is dialled.
    host: Host,
    /// The name that its certificate is for.
    name: Option<String>,
    port: u16,
}

/// The places that an endpoint names, in order.
pub(super) fn places(config: &Config) -> Vec<Place> {
    let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let place = |at: usize| {
        let named = hosts.get(at);
        let name = match named {
            Some(Host::Tcp(name)) => Some(name.clone()),
            _ => None,
        };
        let host = addresses.get(at).map(|address| Host::Tcp(address.to_string())).or_else(|| named.cloned())?;
        let port = ports.get(at).or(ports.first()).copied().unwrap_or(5432);
        Some(Place { host, name, port })
    };
    (0..hosts.len().max(addresses.len())).filter_map(place).collect()
}

/// Connects to one of them, with TLS if the endpoint wants it and `plain` does not forbid it.
pub(super) async fn connect(
    endpoint: &Endpoint,
    place: &Place,
    plain: bool,
) -> Result<Box<dyn Duplex>, ReplicationError> {
    let failed = |source| ReplicationError::Connect { url: endpoint.name().to_string(), source };
    let config = endpoint.config();
    match &place.host {
        Host::Unix(folder) => {
            let path = folder.join(format!(".s.PGSQL.{}", place.port));
            let dialled = within(config.get_connect_timeout(), UnixStream::connect(path));
            Ok(Box::new(dialled.await.map_err(failed)?))
        }
        Host::Tcp(host) => {
            let dialled = within(config.get_connect_timeout(), TcpStream::connect((host.as_str(), place.port)));
            let socket = dialled.await.map_err(failed)?;
            set_up(&socket, config).map_err(failed)?;
            match plain {
                true => Ok(Box::new(socket)),
                false => secured(endpoint, place, socket).await,
            }
        }
    }
}

async fn within<T>(limit: Option<&Duration>, dialled: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let Some(limit) = limit else { return dialled.await };
    tokio::time::timeout(*limit, dialled).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A machine that is gone is noticed.
fn set_up(socket: &TcpStream, config: &Config) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    #[cfg(target_os = "linux")]
    if let Some(limit) = config.get_tcp_user_timeout() {
        socket.set_tcp_user_timeout(Some(*limit))?;
    }
    if config.get_keepalives() {
        let mut keepalive = TcpKeepalive::new().with_time(config.get_keepalives_idle());
        if let Some(interval) = config.get_keepalives_interval() {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(retries) = config.get_keepalives_retries() {
            keepalive = keepalive.with_retries(retries);
        }
        socket.set_tcp_keepalive(&keepalive)?;
    }
    Ok(())
}

/// Asks for TLS, as `sslmode` says.
async fn secured(
    endpoint: &Endpoint,
    place: &Place,
    mut socket: TcpStream,
) -> Result<Box<dyn Duplex>, ReplicationError> {
    let url = || endpoint.name().to_string();
    let failed = |source| ReplicationError::Connect { url: url(), source };
    let refused = |why: String| ReplicationError::Tls { url: url(), why };
    let (config, Some(tls)) = (endpoint.config(), endpoint.tls()) else { return Ok(Box::new(socket)) };
    if config.get_ssl_mode() == SslMode::Disable {
        return Ok(Box::new(socket));
    }
    if config.get_ssl_negotiation() != SslNegotiation::Direct {
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        socket.write_all(&request).await.map_err(failed)?;
        match socket.read_u8().await.map_err(failed)? {
            b'S' => {}
            _ if config.get_ssl_mode() == SslMode::Prefer => return Ok(Box::new(socket)),
            _ => return Err(refused("the server does not support TLS".into())),
        }
    }
    let Some(name) = &place.name else { return Err(refused("there is no host's name to check".into())) };
    let connect = match MakeTlsConnect::<TcpStream>::make_tls_connect(&mut tls.clone(), name) {
        Ok(connect) => connect,
        Err(never) => match never {},
    };
    match connect.connect(socket).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => Err(refused(error.to_string())),
            _ => Err(failed(error)),
        },
    }
}
