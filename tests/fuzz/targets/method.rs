//! Methods: what is read is written and read again the same, and where `amq-protocol` reads them too it finds the same.
//!
//! Input: the payload of a method frame.

use amq_protocol::protocol::{AMQPClass, basic, parse_class};
use leveret::amqp::frame;
use leveret::amqp::method::{self, Method};

pub fn target(data: &[u8]) {
    let Ok(read) = method::decode(data) else { return };
    let mut written = Vec::new();
    match &read {
        Method::Publish(publish) => {
            method::write_publish(&mut written, 0, publish.exchange, publish.routing_key, publish.mandatory);
            // The last octet holds the flags; no client of ours asks for `immediate`.
            let flags_at = written.len() - 2;
            written[flags_at] |= u8::from(publish.immediate) << 1;
            assert_eq!(method::split_address(publish.address).map(|(.., rest)| rest.len()), Some(0));
        }
        Method::Ack { tag, multiple } => method::write_ack(&mut written, 0, *tag, *multiple),
        Method::Nack { tag, multiple, requeue } => method::write_nack(&mut written, 0, *tag, *multiple, *requeue),
        Method::Reject { tag: delivery_tag, requeue } => {
            let reject = basic::Reject { delivery_tag: *delivery_tag, requeue: *requeue };
            method::write(&mut written, 0, &AMQPClass::Basic(basic::AMQPMethod::Reject(reject)));
        }
        Method::Qos { prefetch_bytes, prefetch_count } => {
            frame::write(&mut written, frame::METHOD, 0, |out| {
                out.extend_from_slice(&[0, 60, 0, 10]);
                out.extend_from_slice(&prefetch_bytes.to_be_bytes());
                out.extend_from_slice(&prefetch_count.to_be_bytes());
                out.push(data[data.len() - 1]);
            });
        }
        Method::Other(class) => method::write(&mut written, 0, class),
    }
    let (frame, _) = frame::split(&written, 0).unwrap().expect("a method is written as one whole frame");
    assert_eq!(method::decode(frame.payload).as_ref(), Ok(&read), "written otherwise than it was read");
    if let Ok(([], class)) = parse_class(data) {
        assert!(is_same(&read, &class), "{read:?} is {class:?} to the crate");
    }
}

fn is_same(ours: &Method<'_>, theirs: &AMQPClass) -> bool {
    let AMQPClass::Basic(theirs) = theirs else { return matches!(ours, Method::Other(_)) };
    match (ours, theirs) {
        (Method::Publish(ours), basic::AMQPMethod::Publish(theirs)) => {
            (ours.exchange, ours.routing_key, ours.mandatory, ours.immediate)
                == (theirs.exchange.as_str(), theirs.routing_key.as_str(), theirs.mandatory, theirs.immediate)
        }
        (Method::Ack { tag, multiple }, basic::AMQPMethod::Ack(theirs)) => {
            (*tag, *multiple) == (theirs.delivery_tag, theirs.multiple)
        }
        (Method::Nack { tag, multiple, requeue }, basic::AMQPMethod::Nack(theirs)) => {
            (*tag, *multiple, *requeue) == (theirs.delivery_tag, theirs.multiple, theirs.requeue)
        }
        (Method::Reject { tag, requeue }, basic::AMQPMethod::Reject(theirs)) => {
            (*tag, *requeue) == (theirs.delivery_tag, theirs.requeue)
        }
        (Method::Qos { prefetch_count, .. }, basic::AMQPMethod::Qos(theirs)) => {
            *prefetch_count == theirs.prefetch_count
        }
        // Read by the crate, but for keys that come twice.
        (Method::Other(_), _) => true,
        _ => false,
    }
}
