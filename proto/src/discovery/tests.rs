//! Tests of discovery: `segment` with many servers in the `world`, `machine` with one.

use super::*;

mod machine;
mod segment;
mod world;

const SEGMENT: Segment = Segment(1);

fn key(byte: u8) -> Key {
    Key::from_random([byte; 32])
}

fn id(server: usize) -> ServerId {
    ServerId(mix(server as u64 + 1))
}

fn identity(server: usize) -> Identity {
    let url = format!("circuit://10.0.0.1:1/1/{}", id(server).in_url());
    Identity {
        url: url.parse().unwrap(),
        name: "b".into(),
        count: 0,
        instance: 0,
    }
}

/// A view in which all servers are in their first life.
fn all(id: ServerId) -> Option<Life> {
    Some(Life {
        id,
        count: 0,
        instance: 0,
    })
}

fn from(server: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 1 + server as u16))
}

fn machine(server: usize, key: Option<Key>) -> Machine {
    let name = "a".into();
    Machine::new(
        Identity {
            name,
            ..identity(server)
        },
        key,
        1,
    )
    .unwrap()
}

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

fn announcement(server: usize, key: Option<&Key>) -> Vec<u8> {
    Packet::Announcement(identity(server)).encode(key)
}

fn hear(machine: &mut Machine, server: usize, bytes: &[u8], now: Duration, life_of: LifeOf<'_>) {
    machine.handle(
        Input::Packet {
            segment: SEGMENT,
            from: from(server),
            bytes,
        },
        now,
        life_of,
    );
}
