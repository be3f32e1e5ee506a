//! lapin over TLS, with a client's certificate.

use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties};
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

type Outcome<T> = Result<T, Box<dyn Error>>;

const PATIENCE: Duration = Duration::from_secs(30);

/// Ends with its owner.
struct Broker {
    process: Child,
    folder: std::path::PathBuf,
    port: u16,
}

impl Broker {
    fn start(certificates: &str) -> Outcome<Self> {
        let folder = std::env::temp_dir().join(format!("with_lapin_tls.{}", std::process::id()));
        let mut process = Command::new(std::env::var("LEVERET")?)
            .arg("--data-dir")
            .arg(&folder)
            .args(["--bind", "127.0.0.1", "--amqp-port", "none", "--http-port", "none", "--metrics-port", "none"])
            .args(["--amqps-port", "0", "--tls-verify", "verify_peer", "--tls-fail-if-no-peer-cert", "true"])
            .args(["--tls-certfile", &format!("{certificates}/server.pem")])
            .args(["--tls-keyfile", &format!("{certificates}/server.key")])
            .args(["--tls-cacertfile", &format!("{certificates}/ca.pem")])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut log = BufReader::new(process.stdout.take().ok_or("no log")?).lines();
        let port = log.find_map(|line| {
            let line = line.ok()?;
            line.split_once("started TLS (SSL) listener on 127.0.0.1:")?.1.trim().parse().ok()
        });
        // A full pipe would hold up the broker.
        std::thread::spawn(move || log.for_each(drop));
        Ok(Self { process, folder, port: port.ok_or("the broker did not start")? })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn connect(certificates: &str, shown: Option<&str>, port: u16) -> Outcome<Connection> {
    let file = |name: String| std::fs::read(format!("{certificates}/{name}"));
    let identity = match shown {
        Some(name) => {
            Some(OwnedIdentity::PKCS8 { pem: file(format!("{name}.pem"))?, key: file(format!("{name}.key"))? })
        }
        None => None,
    };
    let trusted = OwnedTLSConfig { identity, cert_chain: Some(String::from_utf8(file("ca.pem".into())?)?) };
    let uri = format!("amqps://guest:guest@localhost:{port}/%2f");
    let runtime = lapin::runtime::default_runtime()?;
    Ok(Connection::connect_with_config(&uri, ConnectionProperties::default(), trusted, runtime).await?)
}

async fn messages(connection: Connection) -> Outcome<()> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("q".into(), durable, FieldTable::default()).await?;
    for size in [0, 1, 20_000, 3_000_000] {
        let body: Vec<u8> = (0..size).map(|at: u32| (at % 251) as u8).collect();
        let properties = BasicProperties::default().with_delivery_mode(2);
        let sent = channel.basic_publish("".into(), "q".into(), BasicPublishOptions::default(), &body, properties);
        let confirmed = sent.await?.await?;
        if !matches!(confirmed, Confirmation::Ack(None)) {
            return Err(format!("{confirmed:?} for {size} octets").into());
        }
        let got = channel.basic_get("q".into(), BasicGetOptions::default()).await?.ok_or("no message")?;
        if got.delivery.data != body {
            return Err(format!("{size} octets came back changed").into());
        }
        got.delivery.acker.ack(BasicAckOptions::default()).await?;
    }
    Ok(connection.close(200, "".into()).await?)
}

/// Whoever shows this is not let in.
async fn refused(certificates: &str, shown: Option<&str>, port: u16) -> Outcome<()> {
    match connect(certificates, shown, port).await {
        Ok(_) => Err("let in".into()),
        Err(_) => Ok(()),
    }
}

fn main() -> Outcome<ExitCode> {
    let certificates = std::env::var("CERTIFICATES")?;
    let broker = Broker::start(&certificates)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut failed = false;
    runtime.block_on(async {
        let mut check = |name: &str, outcome: Outcome<()>| match outcome {
            Ok(()) => println!("passed lapin over TLS: {name}"),
            Err(error) => {
                failed = true;
                println!("FAILED lapin over TLS: {name}: {error}");
            }
        };
        let port = broker.port;
        let talk = async { messages(connect(&certificates, Some("client"), port).await?).await };
        let late = |_| Err("no end in time".into());
        let outcome = tokio::time::timeout(PATIENCE, talk).await.unwrap_or_else(late);
        check("messages of all sizes come back", outcome);
        for (name, shown) in [
            ("a client without a certificate is turned away", None),
            ("a server's certificate is no client's", Some("server")),
        ] {
            let talk = refused(&certificates, shown, port);
            check(name, tokio::time::timeout(PATIENCE, talk).await.unwrap_or_else(late));
        }
    });
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
