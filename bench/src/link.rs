//! One session, as lean as a client can be: it shares two cores with the server under
//! test. WebSocket frames carry a mask of zero, frames are looked into instead of
//! decoded where a count is enough.

use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::{Context as _, Result, bail};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use chat_wire::frame::{Body, Credit, Frame, Hello, Lane, Resume, Welcome};
use prost::Message as _;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

/// How a session is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// WebSocket without TLS.
    WebSocket,
    /// WebSocket over TLS.
    Tls,
    /// QUIC.
    Quic,
}

/// Where sessions go, and what they need to go there.
#[derive(Clone)]
pub(crate) struct Target {
    address: SocketAddr,
    tls: tokio_rustls::TlsConnector,
    quic: quinn::Endpoint,
}

impl Target {
    /// A server whose certificate stands in a file.
    ///
    /// # Errors
    /// If the certificate cannot be read.
    pub(crate) fn new(address: SocketAddr, certificate: &Path) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = |alpn: &[u8]| -> Result<rustls::ClientConfig> {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(certificate)?)?;
            let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()?
                .with_root_certificates(roots)
                .with_no_client_auth();
            config.alpn_protocols = vec![alpn.to_vec()];
            Ok(config)
        };
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(config(b"chat/1")?)?;
        let mut quic = quinn::Endpoint::client("127.0.0.1:0".parse()?)?;
        quic.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
        Ok(Self {
            address,
            tls: Arc::new(config(b"http/1.1")?).into(),
            quic,
        })
    }
}

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// An attached session.
pub(crate) struct Link {
    reader: Reader,
    writer: Writer,
    web: bool,
    input: BytesMut,
    output: BytesMut,
    /// Bulk answers of QUIC come on streams of their own.
    quic: Option<quinn::Connection>,
    events_since_credit: u32,
    received: u64,
}

/// What a frame is, without decoding it.
pub(crate) enum Seen {
    /// SENT or ERROR.
    Answer(Bytes),
    /// EVENT: how many, and the last inbox_seq.
    Events(u32, u64, Bytes),
    /// Anything else.
    Other,
}

const CREDIT_EVERY: u32 = 1024;

impl Link {
    /// Opens a session as `dev:<name>`.
    ///
    /// # Errors
    /// If the server refuses.
    pub(crate) async fn open(
        target: &Target,
        transport: Transport,
        name: &str,
        device: u64,
        resume: Option<u64>,
    ) -> Result<(Self, Welcome)> {
        let mut link = match transport {
            Transport::WebSocket => {
                let stream = TcpStream::connect(target.address).await?;
                stream.set_nodelay(true)?;
                upgrade(stream).await?
            }
            Transport::Tls => {
                let stream = TcpStream::connect(target.address).await?;
                stream.set_nodelay(true)?;
                let name = ServerName::try_from("localhost")?;
                upgrade(target.tls.connect(name, stream).await?).await?
            }
            Transport::Quic => {
                let connection = target.quic.connect(target.address, "localhost")?.await?;
                let (writer, reader) = connection.open_bi().await?;
                Self::new(Box::new(reader), Box::new(writer), false, Some(connection))
            }
        };
        let hello = Hello {
            min_version: 1,
            max_version: 1,
            token: format!("dev:{name}"),
            device,
            resume: resume.map(|inbox_seq| Resume {
                inbox_seq,
                ..Resume::default()
            }),
            ..Hello::default()
        };
        link.queue(&Body::Hello(hello).into());
        link.flush().await?;
        let first = Frame::decode(link.frame().await?)?;
        match first.body {
            Some(Body::Welcome(welcome)) => Ok((link, welcome)),
            other => bail!("no WELCOME for {name}: {other:?}"),
        }
    }

    fn new(reader: Reader, writer: Writer, web: bool, quic: Option<quinn::Connection>) -> Self {
        Self {
            reader,
            writer,
            web,
            input: BytesMut::new(),
            output: BytesMut::new(),
            quic,
            events_since_credit: 0,
            received: 0,
        }
    }

    /// Bytes that came, the upgrade's answer included; below TLS and QUIC they are more.
    #[must_use]
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Puts a frame into the buffer of the next [`Link::flush`].
    pub(crate) fn queue(&mut self, frame: &Frame) {
        let len = frame.encoded_len();
        if self.web {
            self.output.put_u8(0x82);
            match len {
                0..=125 => self
                    .output
                    .put_u8(0x80 | u8::try_from(len).expect("at most 125")),
                126..=65_535 => {
                    self.output.put_u8(0x80 | 126);
                    self.output
                        .put_u16(u16::try_from(len).expect("at most 65,535"));
                }
                _ => {
                    self.output.put_u8(0x80 | 127);
                    self.output.put_u64(len as u64);
                }
            }
            self.output.put_u32(0);
        } else {
            self.output
                .put_u32(u32::try_from(len).expect("bounded by the frame limit"));
        }
        frame.encode(&mut self.output).expect("a BytesMut grows");
    }

    /// Writes what was queued.
    ///
    /// # Errors
    /// If the connection is gone.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        if !self.output.is_empty() {
            self.writer.write_all(&self.output).await?;
            self.output.clear();
            if !self.web {
                self.writer.flush().await?;
            }
        }
        Ok(())
    }

    /// The next whole frame that has arrived already.
    pub(crate) fn arrived(&mut self) -> Result<Option<Bytes>> {
        if !self.web {
            if self.input.len() < 4 {
                return Ok(None);
            }
            let len =
                u32::from_be_bytes([self.input[0], self.input[1], self.input[2], self.input[3]]);
            let len = len as usize;
            if self.input.len() < 4 + len {
                return Ok(None);
            }
            self.input.advance(4);
            return Ok(Some(self.input.split_to(len).freeze()));
        }
        loop {
            if self.input.len() < 2 {
                return Ok(None);
            }
            let (opcode, short) = (self.input[0] & 0x0f, usize::from(self.input[1] & 0x7f));
            let head = match short {
                126 => 4,
                127 => 10,
                _ => 2,
            };
            if self.input.len() < head {
                return Ok(None);
            }
            let len = self.input[2..head]
                .iter()
                .fold(0, |len, byte| len << 8 | usize::from(*byte));
            let len = if head == 2 { short } else { len };
            if self.input.len() < head + len {
                return Ok(None);
            }
            self.input.advance(head);
            let payload = self.input.split_to(len).freeze();
            match opcode {
                0x2 => return Ok(Some(payload)),
                0x8 => bail!("the server closed the connection: {:?}", payload.get(2..)),
                _ => {}
            }
        }
    }

    /// The next frame.
    ///
    /// # Errors
    /// If the connection is gone.
    pub(crate) async fn frame(&mut self) -> Result<Bytes> {
        loop {
            if let Some(frame) = self.arrived()? {
                return Ok(frame);
            }
            self.input.reserve(16 * 1024);
            let read = self.reader.read_buf(&mut self.input).await?;
            if read == 0 {
                bail!("the server closed the connection");
            }
            self.received += read as u64;
        }
    }

    /// The next frame, looked into; credits are granted on the way.
    ///
    /// # Errors
    /// If the connection is gone.
    pub(crate) async fn seen(&mut self) -> Result<Seen> {
        let frame = self.frame().await?;
        self.look(frame)
    }

    /// Like [`Link::seen`], of a frame that has arrived.
    ///
    /// # Errors
    /// If it is no frame.
    pub(crate) fn look(&mut self, frame: Bytes) -> Result<Seen> {
        let seen = look(frame)?;
        if let Seen::Events(count, ..) = seen {
            self.events_since_credit += count;
            if self.events_since_credit >= CREDIT_EVERY {
                let n = std::mem::take(&mut self.events_since_credit);
                self.queue(
                    &Body::Credit(Credit {
                        lane: Lane::Events.into(),
                        n,
                    })
                    .into(),
                );
            }
        }
        Ok(seen)
    }

    /// The answer to a request, wherever it comes; what comes before is dropped.
    ///
    /// # Errors
    /// If the connection is gone.
    pub(crate) async fn answer(&mut self, req: u32) -> Result<Frame> {
        let quic = self.quic.clone();
        loop {
            let bytes = tokio::select! {
                bytes = self.frame() => bytes?,
                bulk = bulk(quic.as_ref()) => {
                    let bulk = bulk?;
                    self.received += bulk.len() as u64 + 4;
                    bulk
                }
            };
            let frame = Frame::decode(bytes)?;
            if frame.req == req {
                return Ok(frame);
            }
        }
    }
}

/// A bulk answer; never, without QUIC.
async fn bulk(quic: Option<&quinn::Connection>) -> Result<Bytes> {
    let Some(quic) = quic else {
        return std::future::pending().await;
    };
    let mut stream = quic.accept_uni().await?;
    let bytes = stream.read_to_end(2 << 20).await?;
    Ok(Bytes::from(bytes).slice(4..))
}

async fn upgrade<S>(mut stream: S) -> Result<Link>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    stream
        .write_all(
            b"GET /v1/ws HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\n\
              connection: Upgrade\r\nsec-websocket-version: 13\r\n\
              sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
              sec-websocket-protocol: chat.v1.proto\r\n\r\n",
        )
        .await?;
    let mut head = BytesMut::with_capacity(1024);
    let end = loop {
        if stream.read_buf(&mut head).await? == 0 {
            bail!(
                "no answer to the upgrade: {}",
                String::from_utf8_lossy(&head)
            );
        }
        if let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
    };
    if !head.starts_with(b"HTTP/1.1 101") {
        bail!(
            "the upgrade was refused: {}",
            String::from_utf8_lossy(&head)
        );
    }
    let received = head.len() as u64;
    head.advance(end);
    let (reader, writer) = tokio::io::split(stream);
    let mut link = Link::new(Box::new(reader), Box::new(writer), true, None);
    (link.input, link.received) = (head, received);
    Ok(link)
}

fn look(frame: Bytes) -> Result<Seen> {
    let mut rest = &frame[..];
    if rest.first() == Some(&0x08) {
        rest.advance(1);
        varint(&mut rest)?;
    }
    match varint(&mut rest)? >> 3 {
        13 | 24 => Ok(Seen::Answer(frame)),
        25 => {
            varint(&mut rest)?;
            let (mut count, mut last) = (0, 0);
            while !rest.is_empty() {
                varint(&mut rest)?;
                let len = usize::try_from(varint(&mut rest)?)?;
                let mut event = rest.get(..len).context("an event is cut short")?;
                if event.first() == Some(&0x08) {
                    event.advance(1);
                    last = varint(&mut event)?;
                }
                rest.advance(len);
                count += 1;
            }
            Ok(Seen::Events(count, last, frame))
        }
        _ => Ok(Seen::Other),
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64> {
    prost::encoding::decode_varint(bytes).context("a varint is cut short")
}
