//! Many queues and connections: pages of lists come soon, and messages go on meanwhile. `LEVERET_QUEUES=10000
//! LEVERET_CONNECTIONS=1000 cargo test --release --test it pages -- --nocapture` is what docs/benchmarks.md tells of.

use super::support::peer::{PLAIN, declare_queue, write_publish};
use super::support::{Api, Broker, Declare, Peer, scale};
use amq_protocol::types::FieldTable;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Requests a round of each kind.
const REQUESTS: usize = 20;

/// How long each request took, the middle of them.
fn median(api: &Api<'_>, path: &str, check: impl Fn(&serde_json::Value)) -> Duration {
    let mut times: Vec<Duration> = (0..REQUESTS)
        .map(|_| {
            let begun = Instant::now();
            let reply = api.get(path);
            let took = begun.elapsed();
            assert_eq!(reply.status, 200, "{path}");
            check(&reply.json());
            took
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

/// What is published, and taken by a consumer, in so long.
fn rate(delivered: &AtomicU64, time: Duration) -> f64 {
    let (before, begun) = (delivered.load(Ordering::Relaxed), Instant::now());
    std::thread::sleep(time);
    (delivered.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64()
}

#[test]
fn a_page_of_many_queues_comes_soon_while_messages_flow() {
    let (queues, connections) = (scale("LEVERET_QUEUES", 1000), scale("LEVERET_CONNECTIONS", 50));
    let broker =
        Broker::with(&["--http-port=0", "--unauthenticated-per-address=infinity", "--accepts-per-address=infinity"]);
    let api = Api::of(&broker);
    let mut peer = Peer::open(&broker);
    for number in 0..queues {
        peer.method(1, declare_queue(Declare::transient(&format!("q{number:05}")), FieldTable::default()));
        if number % 100 == 99 {
            (0..100).for_each(|_| drop(peer.next()));
        }
    }
    (0..queues % 100).for_each(|_| drop(peer.next()));
    for number in 0..queues / 10 {
        (0..number % 7).for_each(|_| peer.publish(1, &format!("q{number:05}"), PLAIN, b"x"));
    }
    let kept: Vec<Peer> = (0..connections).map(|_| Peer::open(&broker)).collect();
    let (stop, delivered) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut peer = Peer::open(&broker);
            peer.declare(1, Declare::transient("flow"));
            peer.confirm_select(1);
            let (mut next, batch) = (1, 200);
            while !stop.load(Ordering::Relaxed) {
                let mut out = Vec::new();
                (0..batch).for_each(|_| write_publish(&mut out, 1, "", "flow", PLAIN, &[0; 64], 131_072));
                peer.octets(&out);
                peer.expect_confirms(next, next + batch - 1);
                next += batch;
                delivered.fetch_add(batch, Ordering::Relaxed);
                // What is confirmed need not stay.
                if next % (100 * batch) == 1 {
                    peer.method(1, purge("flow"));
                    drop(peer.next());
                }
            }
        });
        let window = Duration::from_millis(scale("LEVERET_WINDOW_MS", 500));
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        let page = "/api/queues?page=1&page_size=100&sort=messages&sort_reverse=true";
        for _ in 0..scale("LEVERET_ROUNDS", 2) {
            alone.push(rate(&delivered, window));
            let done = AtomicBool::new(false);
            std::thread::scope(|scope| {
                // A page a second, as somebody who looks at it has it.
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        assert_eq!(api.get(page).status, 200);
                        std::thread::sleep(Duration::from_secs(1).min(window / 2));
                    }
                });
                beside.push(rate(&delivered, window));
                done.store(true, Ordering::Relaxed);
            });
        }
        let middle = |rates: &mut Vec<f64>| {
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        };
        println!(
            "messages confirmed a second: {:.0} alone, {:.0} with a page a second",
            middle(&mut alone),
            middle(&mut beside)
        );
        let whole = |list: &serde_json::Value| {
            assert_eq!(
                list["items"].as_array().unwrap().len(),
                100.min(list["filtered_count"].as_u64().unwrap() as usize)
            )
        };
        for path in [
            page,
            "/api/queues?page=1&page_size=100",
            "/api/queues?page=1&page_size=100&sort=message_stats.publish_details.rate&sort_reverse=true",
            "/api/queues?page=1&page_size=100&name=q000&use_regex=false",
            "/api/connections?page=1&page_size=100",
            "/api/channels?page=1&page_size=100",
        ] {
            let took = median(&api, path, whole);
            println!("{took:?} {path}");
            assert!(took < Duration::from_secs(2), "{took:?} for {path}");
        }
        let took = median(&api, "/api/overview", |overview| {
            assert!(overview["object_totals"]["queues"].as_u64() > Some(queues))
        });
        println!("{took:?} /api/overview");
        stop.store(true, Ordering::Relaxed);
    });
    drop(kept);
}

fn purge(queue: &str) -> amq_protocol::protocol::AMQPClass {
    use amq_protocol::protocol::{AMQPClass, queue as q};
    AMQPClass::Queue(q::AMQPMethod::Purge(q::Purge { queue: queue.into(), ..q::Purge::default() }))
}
