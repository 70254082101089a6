//! The sockets that upstream servers are asked from: with a firewall mark where there is one, so that a proxy on this host which
//! captures questions to name servers leaves this server's own alone.
//!
//! Owns nothing. A socket that cannot be marked is none: its question would come back here.

use std::{future::Future, io, net::SocketAddr, pin::Pin, time::Duration};

use hickory_resolver::net::runtime::{
    RuntimeProvider, TokioHandle, TokioRuntimeProvider, TokioTime, iocompat::AsyncIoTokioAsStd,
};
use tokio::{
    net::{TcpStream, UdpSocket},
    time::timeout,
};
use tradewind_transport::marked::{self, Protocol, Type};

/// How long an upstream may take to accept, unless the resolver says otherwise.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

type Opening<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

/// Opens them.
#[derive(Clone, Default)]
pub(crate) struct Sockets {
    plain: TokioRuntimeProvider,
    mark: Option<u32>,
}

impl Sockets {
    /// With this mark.
    pub(crate) fn new(mark: Option<u32>) -> Self {
        Self {
            mark,
            ..Self::default()
        }
    }
}

impl RuntimeProvider for Sockets {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = UdpSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> Self::Handle {
        self.plain.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        from: Option<SocketAddr>,
        wait: Option<Duration>,
    ) -> Opening<Self::Tcp> {
        let Some(mark) = self.mark else {
            return self.plain.connect_tcp(server, from, wait);
        };
        Box::pin(async move {
            let connecting = marked::connect_to(server, Some(mark));
            let stream = timeout(wait.unwrap_or(CONNECT_DEADLINE), connecting)
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            stream.set_nodelay(true)?;
            Ok(AsyncIoTokioAsStd(stream))
        })
    }

    fn bind_udp(&self, local: SocketAddr, server: SocketAddr) -> Opening<Self::Udp> {
        let Some(mark) = self.mark else {
            return self.plain.bind_udp(local, server);
        };
        Box::pin(async move {
            let socket = marked::socket(local, Type::DGRAM, Protocol::UDP, mark)?;
            socket.bind(&local.into())?;
            UdpSocket::from_std(socket.into())
        })
    }
}
