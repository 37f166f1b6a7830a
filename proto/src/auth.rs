//! How two ends of a connection prove that they hold the same key, and how packets outside of
//! connections are signed with it.
//!
//! The proof is bound to the connection by the TLS exporter (RFC 8446, section 7.5) and to the
//! prover's end of it, so that neither replaying nor relaying nor echoing one gets anybody in.

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::Key;

/// The label under which both ends export keying material (RFC 5705); the context is empty.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-circuit/1";

/// The output of the TLS exporter for [`EXPORTER_LABEL`]: the same at both ends of one connection,
/// different on any other.
pub type Exporter = [u8; 32];

/// The end of a connection that proves: where it really is, never what it claims to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The end that opened the connection.
    Dialler = 1,
    /// The end that accepted it.
    Acceptor = 2,
}

/// A proof that its sender holds the circuit's key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof([u8; 32]);

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proof(…)")
    }
}

/// The proof for one end of one connection.
pub fn prove(key: &Key, end: End, exporter: &Exporter) -> Proof {
    Proof(
        mac(key, &[b"circuit/1 proof", &[end as u8], exporter])
            .finalize()
            .into_bytes()
            .into(),
    )
}

/// Whether the proof is that of this end of this connection, compared in constant time.
pub fn verify(key: &Key, end: End, exporter: &Exporter, proof: &Proof) -> bool {
    mac(key, &[b"circuit/1 proof", &[end as u8], exporter])
        .verify_slice(&proof.0)
        .is_ok()
}

/// Why a proof was not accepted; the text is for people, from the view of the one who proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum KeyMismatch {
    /// The verifier has a key and the prover sent no proof.
    #[error("the circuit has a key, and none was given")]
    Missing,
    /// Both have a key, and not the same.
    #[error("the circuit has another key")]
    Wrong,
    /// The prover sent a proof and the verifier has no key.
    #[error("a key was given, and the circuit has none")]
    Unexpected,
}

/// Checks the other end's proof against this end's key, if it has one.
pub fn check(
    key: Option<&Key>,
    end: End,
    exporter: &Exporter,
    proof: Option<&Proof>,
) -> Result<(), KeyMismatch> {
    match (key, proof) {
        (None, None) => Ok(()),
        (Some(key), Some(proof)) if verify(key, end, exporter, proof) => Ok(()),
        (Some(_), Some(_)) => Err(KeyMismatch::Wrong),
        (Some(_), None) => Err(KeyMismatch::Missing),
        (None, Some(_)) => Err(KeyMismatch::Unexpected),
    }
}

/// The code that authenticates a packet sent outside of connections: HMAC-SHA-256, cut to its
/// first 16 bytes (RFC 2104, section 5), over a purpose and the packet's parts.
pub fn packet_mac(key: &Key, purpose: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut all = vec![purpose];
    all.extend_from_slice(parts);
    let whole = mac(key, &all).finalize().into_bytes();
    let mut head = [0; 16];
    head.copy_from_slice(&whole[..16]);
    head
}

/// Whether the code is that of the packet, compared in constant time.
pub fn verify_packet(key: &Key, purpose: &[u8], parts: &[&[u8]], code: &[u8; 16]) -> bool {
    let mut all = vec![purpose];
    all.extend_from_slice(parts);
    mac(key, &all).verify_truncated_left(code).is_ok()
}

fn mac(key: &Key, parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.secret())
        .expect("HMAC takes keys of any length (RFC 2104, section 2)");
    for part in parts {
        mac.update(part);
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key {
        Key::from_random([byte; 32])
    }

    #[test]
    fn a_proof_holds_for_its_key_end_and_connection_only() {
        let proof = prove(&key(1), End::Dialler, &[9; 32]);
        assert!(verify(&key(1), End::Dialler, &[9; 32], &proof));
        assert!(
            !verify(&key(2), End::Dialler, &[9; 32], &proof),
            "another key"
        );
        assert!(!verify(&key(1), End::Acceptor, &[9; 32], &proof), "an echo");
        assert!(
            !verify(&key(1), End::Dialler, &[8; 32], &proof),
            "a replay on another connection"
        );
    }

    #[test]
    fn says_which_mismatch_it_was() {
        let exporter = [3; 32];
        let proof = prove(&key(1), End::Dialler, &exporter);
        let check =
            |key: Option<&Key>, proof: Option<&Proof>| check(key, End::Dialler, &exporter, proof);
        assert_eq!(check(None, None), Ok(()));
        assert_eq!(check(Some(&key(1)), Some(&proof)), Ok(()));
        assert_eq!(check(Some(&key(2)), Some(&proof)), Err(KeyMismatch::Wrong));
        assert_eq!(check(Some(&key(1)), None), Err(KeyMismatch::Missing));
        assert_eq!(check(None, Some(&proof)), Err(KeyMismatch::Unexpected));
    }

    #[test]
    fn packets_are_bound_to_their_purpose() {
        let code = packet_mac(&key(1), b"a", &[b"b", b"c"]);
        assert!(verify_packet(&key(1), b"a", &[b"bc"], &code));
        assert!(!verify_packet(&key(1), b"x", &[b"b", b"c"], &code));
        assert!(!verify_packet(&key(2), b"a", &[b"b", b"c"], &code));
    }

    #[test]
    fn the_proof_is_hmac_sha_256_of_the_decoded_key() {
        let key = Key::parse("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
        let whole = mac(&key, &[b"circuit/1 proof", &[1], &[0; 32]])
            .finalize()
            .into_bytes();
        let hex: String = whole.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, EXPECTED);
    }

    // Python's hmac module computed this over the same bytes.
    const EXPECTED: &str = "a98b947cd9dfbf345f194d618615a5383cb07dae8151d2075d028df1f35cd46f";
}
