//! basic.publish: content assembled, checked, routed, and packed into runs; confirms.

use super::egress::{Egress, write_returned};
use super::{Channel, Context, Fault};
use crate::amqp::method::{PUBLISH, Publish, split_address};
use crate::amqp::properties::{ContentHeader, Properties};
use crate::amqp::table::Fields;
use crate::amqp::{BASIC, ReplyCode, frame};
use crate::auth::Access;
use crate::message::{Marks, Message, Packer, Partial, Run, Traits};
use crate::metrics::{Counted, Counts, Gathered, Stat, Totals};
use crate::queue::classic::{Ticket, Waiter};
use crate::queue::consumer::Outlet;
use crate::queue::ranges::Ranges;
use crate::refusal::Refusal;
use crate::vhost::publish::Route;
use crate::vhost::ties::Ties;
use crate::vhost::{self, reply_to};
use amq_protocol::protocol::{AMQPClass, confirm};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::time::Instant;

/// Routes remembered a channel; with more the memory starts anew.
const ROUTES_MAX: usize = 4096;
/// Queues of all routes that a channel remembers; with more the memory starts anew.
const ROUTED_QUEUES_MAX: usize = 64 << 10;
/// Octets of a body that nobody may announce, whatever the settings.
const BODY_BYTES_MAX: u64 = 512 << 20;

/// What the next frame of a channel must be (specification 4.2.6: method, content header, body frames).
///
/// ```text
///            publish              header              last body frame
///   Method ──────────▶ Header ──────────────▶ Body ──────────────────▶ Method
/// ```
#[derive(Debug)]
pub enum Assembly {
    Method,
    Header { address: Vec<u8>, mandatory: bool },
    Body { partial: Partial, mandatory: bool },
}

/// What a channel has published in this read and not handed over.
#[derive(Debug, Default)]
pub struct Publisher {
    /// The last publish's sequence number, if the channel confirms.
    sequence: Option<u64>,
    routes: Routes,
    open: Vec<Open>,
    spare: Vec<Packer>,
    /// Not yet counted: how large messages were, into which exchange the last ones went and out of it how often, and the
    /// same of the exchanges before it.
    gathered: Gathered,
    through: Option<(Arc<Through>, Passed)>,
    through_others: Vec<(Arc<Through>, Passed)>,
    /// Sequence numbers that are safe as soon as the client has what was sent before: nothing was routed.
    unrouted: Vec<Range<u64>>,
}

/// Routes by exchange and routing key, for one version of the topology and of the user's rights.
#[derive(Debug, Default)]
struct Routes {
    version: u64,
    known: FxHashMap<Box<[u8]>, Arc<Route>>,
    /// How many queues they have together.
    queues: usize,
    last: Option<Remembered>,
}

/// A route and its address.
#[derive(Debug)]
struct Remembered {
    address: Box<[u8]>,
    route: Arc<Route>,
}

/// A run in the making, for one set of queues.
#[derive(Debug)]
struct Open {
    route: Arc<Route>,
    packer: Packer,
    numbered: Numbered,
}

/// An exchange, and what of it is the channel's own.
#[derive(Debug)]
struct Through {
    exchange: Arc<Counted>,
    own: Arc<Counts>,
}

impl Through {
    fn count(&self, stat: Stat, count: u64) {
        self.exchange.counts.add(stat, count);
        self.own.add(stat, count);
    }
}

/// Publishes of one run that are to be confirmed, in order.
#[derive(Debug, Default)]
struct Numbered {
    sequence: Vec<Range<u64>>,
    /// The exchanges that they went into, so many one after the other.
    through: Vec<(Arc<Through>, u64)>,
}

impl Numbered {
    fn add(&mut self, number: u64, through: &Arc<Through>) {
        add(&mut self.sequence, number);
        match self.through.last_mut() {
            Some((last, count)) if Arc::ptr_eq(last, through) => *count += 1,
            _ => self.through.push((Arc::clone(through), 1)),
        }
    }

    /// Counts what was not refused for its exchanges.
    fn count_confirmed(&self, refused: &Ranges) {
        let mut first = 0;
        for (through, count) in &self.through {
            let refused = refused.intersection(first..first + count);
            let refused: u64 = refused.into_iter().map(|range| range.end - range.start).sum();
            through.count(Stat::Confirm, count - refused);
            first += count;
        }
    }
}

/// Publishes of one run that wait for all their queues.
#[derive(Debug)]
struct Confirmation {
    egress: Arc<Egress>,
    channel: u16,
    epoch: u64,
    numbered: Numbered,
    waiting: AtomicUsize,
    since: Instant,
    /// Messages of the run that a queue refused.
    refused: Mutex<Ranges>,
}

impl Waiter for Confirmation {
    fn safe(&self) -> Option<Arc<dyn Outlet>> {
        if self.waiting.fetch_sub(1, Ordering::AcqRel) > 1 {
            return None;
        }
        let refused = std::mem::take(&mut *self.refused.lock());
        self.numbered.count_confirmed(&refused);
        let (safe, refused) = split(&self.numbered.sequence, &refused);
        let count = safe.iter().map(|range| range.end - range.start).sum();
        self.egress.count_confirmed(self.since.elapsed(), count);
        for (sequence, refused) in [(safe, false), (refused, true)] {
            if !sequence.is_empty() {
                self.egress.confirmed(self.channel, self.epoch, sequence, refused);
            }
        }
        Some(Arc::clone(&self.egress) as _)
    }

    fn refused(&self, messages: Range<u32>) {
        self.refused.lock().insert(messages.start.into()..messages.end.into());
    }
}

/// Sequence numbers of those messages that are not in `refused`, which counts them from 0, and of those that are.
fn split(sequence: &[Range<u64>], refused: &Ranges) -> (Vec<Range<u64>>, Vec<Range<u64>>) {
    if refused.is_empty() {
        return (sequence.to_vec(), Vec::new());
    }
    let (mut safe, mut nacked) = (Vec::new(), Vec::new());
    let mut first = 0;
    for numbers in sequence {
        let indexes = first..first + (numbers.end - numbers.start);
        let number = |index: u64| numbers.start + (index - indexes.start);
        let numbered = |part: Range<u64>| number(part.start)..number(part.end);
        safe.extend(refused.difference(indexes.clone()).into_iter().map(numbered));
        nacked.extend(refused.intersection(indexes.clone()).into_iter().map(numbered));
        first = indexes.end;
    }
    (safe, nacked)
}

fn add(sequence: &mut Vec<Range<u64>>, number: u64) {
    match sequence.last_mut() {
        Some(last) if last.end == number => last.end += 1,
        _ => sequence.push(number..number + 1),
    }
}

/// Messages that went into an exchange, and how often they came out of it.
#[derive(Debug, Default, Clone, Copy)]
struct Passed {
    into: u64,
    out: u64,
}

impl Publisher {
    /// Notes a message, to be counted at the end of the read. In line: the call would cost as much as what it does.
    #[inline(always)]
    fn count(&mut self, route: &Route, body_bytes: usize, ties: &Ties<Counted>) {
        self.gathered.add(body_bytes);
        let out = route.targets.len() as u64;
        match &mut self.through {
            Some((through, passed)) if Arc::ptr_eq(&through.exchange, &route.exchange) => {
                passed.into += 1;
                passed.out += out;
            }
            _ => self.count_through_another(route, out, ties),
        }
    }

    fn count_through_another(&mut self, route: &Route, out: u64, ties: &Ties<Counted>) {
        let through = Through { exchange: Arc::clone(&route.exchange), own: ties.with(&route.exchange) };
        // Bounded by what one read holds.
        let last = self.through.replace((Arc::new(through), Passed { into: 1, out }));
        self.through_others.extend(last);
    }

    /// Counts what was noted.
    pub fn tell(&mut self, channel: &Counts, totals: &Totals) {
        let mut all = Passed::default();
        let mut tell = |through: &Through, passed: Passed| {
            if passed.into == 0 {
                return;
            }
            through.exchange.counts.add(Stat::PublishIn, passed.into);
            through.exchange.counts.add(Stat::PublishOut, passed.out);
            through.own.add(Stat::Publish, passed.into);
            all.into += passed.into;
            all.out += passed.out;
        };
        self.through_others.drain(..).for_each(|(through, passed)| tell(&through, passed));
        if let Some((through, passed)) = &mut self.through {
            tell(through, std::mem::take(passed));
        }
        if all.into > 0 {
            self.gathered.tell(all.into, all.out, channel, totals, self.sequence.is_some());
        }
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.unrouted.is_empty()
    }

    /// How many publishes the channel is to confirm, if it does.
    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    /// Adds a message to the run of its queues.
    fn pack(
        &mut self,
        route: &Arc<Route>,
        message: &Message<'_>,
        traits: Traits,
        channel: u16,
        epoch: u64,
        cx: &mut Context,
    ) {
        let at = self.run_for(route, traits.persistent, message.packed_bytes(), channel, epoch, cx);
        let open = &mut self.open[at];
        open.packer.push(message, traits);
        if let (Some(sequence), Some((through, _))) = (self.sequence, &self.through) {
            open.numbered.add(sequence, through);
        }
    }

    /// The open run that a message may join without overtaking another on its way to the same queue.
    fn run_for(
        &mut self,
        route: &Arc<Route>,
        persistent: bool,
        bytes: usize,
        channel: u16,
        epoch: u64,
        cx: &mut Context,
    ) -> usize {
        let found = match self.open.last() {
            Some(last) if Arc::ptr_eq(&last.route, route) => Some(self.open.len() - 1),
            // Runs for single queues can't overtake each other; a run for several could.
            Some(last) if route.targets.len() == 1 && last.route.targets.len() == 1 => {
                self.open.iter().position(|open| Arc::ptr_eq(&open.route.targets[0], &route.targets[0]))
            }
            Some(_) => {
                self.close_runs(channel, epoch, cx);
                None
            }
            None => None,
        };
        match found {
            Some(at) if self.open[at].packer.accepts(persistent, bytes) => at,
            Some(at) => {
                let open = &mut self.open[at];
                let run = open.packer.finish();
                let numbered = std::mem::take(&mut open.numbered);
                hand_run(run, &Arc::clone(&open.route), numbered, channel, epoch, cx);
                at
            }
            None => {
                let packer = self.spare.pop().unwrap_or_default();
                self.open.push(Open { route: Arc::clone(route), packer, numbered: Numbered::default() });
                self.open.len() - 1
            }
        }
    }

    fn close_runs(&mut self, channel: u16, epoch: u64, cx: &mut Context) {
        for mut open in self.open.drain(..) {
            if !open.packer.is_empty() {
                hand_run(open.packer.finish(), &open.route, open.numbered, channel, epoch, cx);
            }
            if self.spare.len() < 16 {
                self.spare.push(open.packer);
            }
        }
    }

    pub fn hand_over(&mut self, channel: u16, epoch: u64, cx: &mut Context) {
        self.close_runs(channel, epoch, cx);
        if !self.unrouted.is_empty() {
            // Returned messages go before their confirms.
            cx.flush();
            cx.egress.confirmed(channel, epoch, std::mem::take(&mut self.unrouted), false);
        }
    }

    /// A transaction takes the runs instead of the queues.
    pub(super) fn take_runs(&mut self) -> Vec<(Arc<Route>, Run)> {
        self.open
            .drain(..)
            .filter(|open| !open.packer.is_empty())
            .map(|mut open| (open.route, open.packer.finish()))
            .collect()
    }
}

/// Gives a run to its queues, and a ticket if its publishes are to be confirmed.
fn hand_run(run: Run, route: &Arc<Route>, numbered: Numbered, channel: u16, epoch: u64, cx: &mut Context) {
    if cx.vhost.is_traced() {
        trace(&run, route, channel, cx);
    }
    let run = Arc::new(run);
    let ticket: Option<Ticket> = (!numbered.sequence.is_empty()).then(|| {
        let waiting = AtomicUsize::new(route.targets.len());
        let (egress, refused) = (Arc::clone(&cx.egress), Mutex::default());
        let since = Instant::now();
        Arc::new(Confirmation { egress, channel, epoch, numbered, waiting, since, refused }) as _
    });
    for queue in &route.targets {
        queue.count(Stat::Publish, run.count().into());
        queue.publish(&run, ticket.clone(), &mut cx.acts);
    }
}

/// Copies a run's messages to the firehose.
pub(super) fn trace(run: &Run, route: &Route, channel: u16, cx: &mut Context) {
    let mut acts = std::mem::take(&mut cx.acts);
    for index in 0..run.count() {
        cx.vhost.trace_publish(&run.message(index), &route.targets, &cx.party(channel), &mut acts);
    }
    cx.acts = acts;
}

impl Routes {
    /// The remembered route of an address, to be given back. Lending it instead of cloning the `Arc` keeps atomic counting
    /// out of each message (measured: 4 % of the broker's work for a small one).
    fn lend(&mut self, address: &[u8], version: u64) -> Option<Remembered> {
        if self.version != version {
            self.forget();
            self.last = None;
            self.version = version;
            return None;
        }
        if let Some(last) = self.last.take_if(|last| *last.address == *address) {
            return Some(last);
        }
        let route = Arc::clone(self.known.get(address)?);
        Some(Remembered { address: address.into(), route })
    }

    fn forget(&mut self) {
        self.known.clear();
        self.queues = 0;
    }

    fn give_back(&mut self, lent: Remembered) {
        self.last = Some(lent);
    }

    fn put(&mut self, address: &[u8], route: &Arc<Route>) {
        self.queues += route.targets.len();
        if self.known.len() >= ROUTES_MAX || self.queues > ROUTED_QUEUES_MAX {
            self.forget();
            self.queues = route.targets.len();
        }
        self.known.insert(address.into(), Arc::clone(route));
    }
}

/// What was found out about a message when it was checked.
struct Accepted {
    route: Arc<Route>,
    /// Its address, if the route is lent.
    address: Option<Box<[u8]>>,
    marks: Marks,
    traits: Traits,
    /// Its properties, if it must not keep its own.
    rewritten: Option<Vec<u8>>,
}

/// Why a message is refused.
enum Refused {
    Refusal(Refusal),
    Syntax,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Refusal(refusal)
    }
}

impl Channel {
    /// confirm.select
    pub(super) fn confirm_select(&mut self, select: &confirm::Select, cx: &mut Context) -> Result<(), Refusal> {
        if self.tx.is_some() {
            return Err(Refusal::precondition("cannot switch from tx to confirm mode"));
        }
        self.publisher.sequence.get_or_insert(0);
        self.gauges.confirms.store(true, Ordering::Relaxed);
        if !select.nowait {
            cx.reply(self.number, AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(confirm::SelectOk {})));
        }
        Ok(())
    }

    pub(super) fn confirms(&self) -> bool {
        self.publisher.sequence.is_some()
    }

    /// basic.publish with its whole content in the read buffer: the frequent case, nothing is copied but into the run.
    pub fn publish_whole(
        &mut self,
        publish: &Publish<'_>,
        header: &ContentHeader<'_>,
        body: &[u8],
        cx: &mut Context,
    ) -> Result<(), Fault> {
        if publish.immediate {
            return Err(immediate());
        }
        self.check_header(header, cx)?;
        let (exchange, routing_key, _) = split_address(publish.address).unwrap_or_default();
        let (address, marks, properties) = (publish.address, Marks::NONE, header.properties);
        let message = Message { address, exchange, routing_key, marks, properties, body };
        self.publish(message, publish.mandatory, cx)
    }

    /// basic.publish, its content to follow.
    pub fn publish_begin(&mut self, publish: &Publish<'_>) -> Result<(), Fault> {
        if publish.immediate {
            return Err(immediate());
        }
        self.assembly = Assembly::Header { address: publish.address.to_vec(), mandatory: publish.mandatory };
        Ok(())
    }

    /// A frame that is no method.
    pub fn content(&mut self, kind: u8, payload: &[u8], cx: &mut Context) -> Result<(), Fault> {
        match std::mem::replace(&mut self.assembly, Assembly::Method) {
            Assembly::Method => Err(unexpected("expected method frame, got non method frame instead", (0, 0))),
            Assembly::Header { address, mandatory } => {
                let header = match kind {
                    frame::HEADER => ContentHeader::parse(payload).filter(|header| header.weight == 0),
                    _ => None,
                };
                let header = header.ok_or_else(|| unexpected_header("non content header frame"))?;
                if header.class != BASIC {
                    return Err(unexpected_header(&format!("one for class {}", header.class)));
                }
                self.check_header(&header, cx)?;
                let body_bytes = usize::try_from(header.body_bytes).unwrap_or(usize::MAX);
                let partial = Partial::new(&address, header.properties, body_bytes);
                self.body(partial, mandatory, cx)
            }
            Assembly::Body { mut partial, mandatory } => {
                if kind != frame::BODY {
                    return Err(unexpected("expected content body, got non content body frame instead", PUBLISH));
                }
                if payload.len() > partial.missing() {
                    let text = "content body frame exceeds remaining content size";
                    return Err(Fault::new(ReplyCode::FrameError, text, PUBLISH));
                }
                partial.push(payload);
                self.body(partial, mandatory, cx)
            }
        }
    }

    /// A method came where content should have.
    pub fn interrupted(&self) -> Fault {
        match self.assembly {
            Assembly::Body { .. } => unexpected("expected content body, got non content body frame instead", PUBLISH),
            _ => unexpected_header("non content header frame"),
        }
    }

    fn body(&mut self, partial: Partial, mandatory: bool, cx: &mut Context) -> Result<(), Fault> {
        if partial.missing() > 0 {
            self.assembly = Assembly::Body { partial, mandatory };
            return Ok(());
        }
        self.publish_partial(partial, mandatory, cx)
    }

    fn check_header(&self, header: &ContentHeader<'_>, cx: &Context) -> Result<(), Fault> {
        if header.body_bytes > BODY_BYTES_MAX {
            let size = header.body_bytes;
            let text = format!("content body size {size} exceeds maximum allowed size {BODY_BYTES_MAX}");
            return Err(Fault::new(ReplyCode::FrameError, text, PUBLISH));
        }
        let limit = cx.limits.message_bytes_max;
        if header.body_bytes > limit {
            let text = format!("message size {} is larger than configured max size {limit}", header.body_bytes);
            return Err(Fault::new(ReplyCode::PreconditionFailed, text, PUBLISH));
        }
        Ok(())
    }

    /// A large message becomes a run of its own without another copy.
    fn publish_partial(&mut self, partial: Partial, mandatory: bool, cx: &mut Context) -> Result<(), Fault> {
        let message = partial.message();
        let body_bytes = message.body.len();
        let large = body_bytes >= 64 << 10;
        if !large || self.tx.is_some() {
            return self.publish(message, mandatory, cx);
        }
        let accepted = self.accept(&message, cx).map_err(fault)?;
        if accepted.route.targets.is_empty() || accepted.rewritten.is_some() {
            self.send(message, accepted, mandatory, cx);
        } else {
            let (number, epoch) = (self.number, self.epoch);
            self.publisher.close_runs(number, epoch, cx);
            let Accepted { route, marks, traits, .. } = accepted;
            self.publisher.count(&route, body_bytes, &self.gauges.by_exchange);
            let mut numbered = Numbered::default();
            if let (Some(last), Some((through, _))) = (&mut self.publisher.sequence, &self.publisher.through) {
                *last += 1;
                numbered.add(*last, through);
            }
            hand_run(partial.into_run(marks, traits), &route, numbered, number, epoch, cx);
        }
        Ok(())
    }

    fn publish(&mut self, message: Message<'_>, mandatory: bool, cx: &mut Context) -> Result<(), Fault> {
        let accepted = self.accept(&message, cx).map_err(fault)?;
        self.send(message, accepted, mandatory, cx);
        Ok(())
    }

    /// Checks a message in RabbitMQ's order and finds its queues.
    fn accept(&mut self, message: &Message<'_>, cx: &mut Context) -> Result<Accepted, Refused> {
        // What the user may do is remembered with the route.
        let version = cx.vhost.version().wrapping_add(cx.actor.rights.version());
        let remembered = self.publisher.routes.lend(message.address, version);
        let (exchange, routing_key) = (text(message.exchange), text(message.routing_key));
        if remembered.is_none() {
            cx.vhost.check_publish(&cx.actor, exchange)?;
            // Missing and internal exchanges are refused before the properties are looked at.
            if !exchange.is_empty() {
                cx.vhost.check_exchange(exchange, true)?;
            }
        }
        // Borrowed, since they are many octets to copy for each message.
        let parsed = Properties::parse(message.properties);
        let properties = parsed.as_ref().map_err(|_| Refused::Syntax)?;
        let mut rewritten = None;
        if properties.reply_to == Some(reply_to::QUEUE.as_bytes()) {
            let reply = self.reply.as_ref();
            let reply = reply.ok_or_else(|| Refusal::precondition("fast reply consumer does not exist"))?;
            rewritten = Some(properties.with_reply_to(message.properties, &reply.queue.identity.name));
        }
        let (extra, marks) = vhost::properties::check(&cx.actor, properties)?;
        if let Some(headers) = properties.headers.filter(|headers| headers.repeats()) {
            // Of a header that comes twice RabbitMQ hands on the first (and routes by the last).
            let raw = rewritten.as_deref().unwrap_or(message.properties);
            let once = Fields::EMPTY.merged(headers);
            rewritten = Properties::parse(raw).ok().map(|properties| properties.with_headers(raw, &once));
        }
        let traits = Traits::of(properties);
        if let Some(Remembered { address, route }) = remembered
            && extra.is_empty()
        {
            return Ok(Accepted { route, address: Some(address), marks, traits, rewritten });
        }
        let keys: SmallVec<[&str; 2]> = std::iter::once(routing_key).chain(extra.iter().copied()).collect();
        cx.costly = true;
        cx.vhost.check_topics(&cx.actor, Access::Write, exchange, &keys)?;
        let kept = Message { marks, properties: rewritten.as_deref().unwrap_or(message.properties), ..*message };
        let route = Arc::new(cx.vhost.route_message(&kept, traits, &keys, properties, true)?);
        if route.cacheable && extra.is_empty() {
            self.publisher.routes.put(message.address, &route);
        }
        Ok(Accepted { route, address: None, marks, traits, rewritten })
    }

    fn send(&mut self, message: Message<'_>, accepted: Accepted, mandatory: bool, cx: &mut Context) {
        let Accepted { route, address, marks, traits, rewritten } = accepted;
        let properties = rewritten.as_deref().unwrap_or(message.properties);
        let message = Message { marks, properties, ..message };
        if let Some(sequence) = &mut self.publisher.sequence {
            *sequence += 1;
        }
        self.publisher.count(&route, message.body.len(), &self.gauges.by_exchange);
        if !route.targets.is_empty() {
            let (number, epoch) = (self.number, self.epoch);
            match &mut self.tx {
                Some(tx) => tx.pack(&mut self.publisher, &route, &message, traits),
                None => self.publisher.pack(&route, &message, traits, number, epoch, cx),
            }
            if let Some(address) = address {
                self.publisher.routes.give_back(Remembered { address, route });
            }
            return;
        }
        if cx.vhost.is_traced() {
            let mut acts = std::mem::take(&mut cx.acts);
            cx.vhost.trace_publish(&message, &route.targets, &cx.party(self.number), &mut acts);
            cx.acts = acts;
        }
        if !route.swallowed {
            let stat = if mandatory { Stat::ReturnUnroutable } else { Stat::DropUnroutable };
            self.gauges.counted.counts.add(stat, 1);
            self.publisher.through.iter().for_each(|(through, _)| through.count(stat, 1));
            cx.vhost.totals().add_published(stat, 1);
        }
        if mandatory && !route.swallowed {
            let frame_max = cx.limits.frame_max;
            let out = match &mut self.tx {
                Some(tx) => tx.returns(),
                None => &mut cx.frames,
            };
            write_returned(out, self.number, &message, frame_max);
        }
        if let Some(sequence) = self.publisher.sequence {
            add(&mut self.publisher.unrouted, sequence);
            self.publisher.through.iter().for_each(|(through, _)| through.count(Stat::Confirm, 1));
        }
    }
}

impl Publisher {
    /// Packs for a transaction: nothing is handed to a queue, full runs are put aside.
    pub(super) fn pack_aside(
        &mut self,
        route: &Arc<Route>,
        message: &Message<'_>,
        traits: Traits,
        aside: &mut Vec<(Arc<Route>, Run)>,
    ) {
        let bytes = message.packed_bytes();
        let same = self
            .open
            .last()
            .is_some_and(|last| Arc::ptr_eq(&last.route, route) && last.packer.accepts(traits.persistent, bytes));
        if !same {
            aside.append(&mut self.take_runs());
            self.open.push(Open { route: Arc::clone(route), packer: Packer::default(), numbered: Numbered::default() });
        }
        if let Some(open) = self.open.last_mut() {
            open.packer.push(message, traits);
        }
    }
}

fn text(octets: &[u8]) -> &str {
    // Methods with anything else were refused when they were decoded.
    std::str::from_utf8(octets).unwrap_or_default()
}

fn immediate() -> Fault {
    Fault::new(ReplyCode::NotImplemented, "immediate=true", PUBLISH)
}

fn fault(refused: Refused) -> Fault {
    match refused {
        Refused::Refusal(refusal) => Fault { code: refusal.reply_code(), text: refusal.text, id: PUBLISH },
        Refused::Syntax => Fault::new(ReplyCode::SyntaxError, "malformed message properties", PUBLISH),
    }
}

fn unexpected(text: &str, id: (u16, u16)) -> Fault {
    Fault::new(ReplyCode::UnexpectedFrame, text, id)
}

fn unexpected_header(got: &str) -> Fault {
    unexpected(&format!("expected content header for class 60, got {got} instead"), PUBLISH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_messages_are_told_from_the_others_by_their_place() {
        let refused: Ranges = [1..2, 3..5].into_iter().collect();
        let (safe, nacked) = split(&[10..13, 20..24], &refused);
        assert_eq!((safe, nacked), (vec![10..11, 12..13, 22..24], vec![11..12, 20..22]));
        assert_eq!(split(&[7..9, 10..12], &Ranges::default()), (vec![7..9, 10..12], vec![]));
    }
}
