//! TLS 1.3 between peers that know each other by their public keys.
//!
//! There are no authorities: a peer's certificate is self-signed and only carries its Ed25519 key,
//! whose hash is the peer's identity. The verifiers check that the peer holds the key (the
//! handshake's signature) and, where a URL pins it, that it is the right one. Names and dates in
//! the certificate mean nothing.
//!
//! **Invariant:** no connection is established with a peer that has not proved its key.

use std::fmt;
use std::sync::{Arc, OnceLock};

use circuit_proto::handshake::ALPN;
use circuit_proto::{Fingerprint, ServerId};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring as provider_of_ring;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, PeerIncompatible, SignatureScheme,
};

/// A key pair and the self-signed certificate that carries its public half.
pub struct Certificate {
    der: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    /// The same key, ready to sign with: to read it derives the public half again.
    pair: Arc<Ed25519KeyPair>,
    /// The public half.
    public: [u8; 32],
    fingerprint: Fingerprint,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateReadError {
    /// Making one failed.
    #[error("cannot make a key pair")]
    Make(#[source] rcgen::Error),
    /// The text holds no private key and certificate in PEM.
    #[error("no private key and certificate in PEM")]
    Pem(#[source] pem::Error),
    /// The certificate is not one.
    #[error("not a certificate")]
    NotACertificate,
    /// The key is of another kind, or another certificate's.
    #[error("the private key is not the Ed25519 key of the certificate")]
    NotItsKey,
}

impl Certificate {
    /// A new identity, and its text to keep (PEM: a private key and a certificate).
    pub fn generate() -> Result<(Certificate, String), CertificateReadError> {
        let make = || {
            let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
            let params = rcgen::CertificateParams::new(vec!["circuit".to_owned()])?;
            let certificate = params.self_signed(&key)?;
            Ok(key.serialize_pem() + &certificate.pem())
        };
        let text = make().map_err(CertificateReadError::Make)?;
        Ok((Certificate::from_pem(&text)?, text))
    }

    /// Reads the text that [`generate`](Self::generate) gave.
    pub fn from_pem(text: &str) -> Result<Certificate, CertificateReadError> {
        let key =
            PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(CertificateReadError::Pem)?;
        let der =
            CertificateDer::from_pem_slice(text.as_bytes()).map_err(CertificateReadError::Pem)?;
        let fingerprint = fingerprint_of(&der).ok_or(CertificateReadError::NotACertificate)?;
        let not_its_key = CertificateReadError::NotItsKey;
        let pair = match Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.secret_der()) {
            Ok(pair) => Arc::new(pair),
            Err(_) => return Err(not_its_key),
        };
        let public = <[u8; 32]>::try_from(pair.public_key().as_ref());
        let Some(public) = public.ok().filter(|public| claimed(public) == fingerprint) else {
            return Err(not_its_key);
        };
        Ok(Certificate {
            der,
            key,
            pair,
            public,
            fingerprint,
        })
    }

    /// The hash of the public key.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Signs a message outside of connections. [`Signed::signer`] checks it.
    pub fn sign(&self, message: &[u8]) -> Signed {
        let mut signature = [0; 64];
        // All signatures of this kind have 64 bytes.
        signature.copy_from_slice(self.pair.sign(message).as_ref());
        Signed {
            public: self.public,
            signature,
        }
    }
}

/// A public key and its signature of a message.
#[derive(Debug, Clone, Copy)]
pub struct Signed {
    /// The signer's Ed25519 public key.
    pub public: [u8; 32],
    /// The signature (RFC 8032).
    pub signature: [u8; 64],
}

/// The bytes before an Ed25519 key in its SubjectPublicKeyInfo (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

impl Signed {
    /// The fingerprint of the claimed signer: proven only by [`signer`](Self::signer).
    pub fn claimed(&self) -> Fingerprint {
        claimed(&self.public)
    }

    /// The signer of the message; `None` if the signature is another message's.
    pub fn signer(&self, message: &[u8]) -> Option<Fingerprint> {
        let key = UnparsedPublicKey::new(&ED25519, &self.public);
        key.verify(message, &self.signature).ok()?;
        Some(self.claimed())
    }
}

/// The fingerprint of an Ed25519 public key.
fn claimed(public: &[u8; 32]) -> Fingerprint {
    let mut spki = [0; 44];
    spki[..12].copy_from_slice(&SPKI_PREFIX);
    spki[12..].copy_from_slice(public);
    Fingerprint::of_public_key(&spki)
}

impl Clone for Certificate {
    fn clone(&self) -> Certificate {
        Certificate {
            der: self.der.clone(),
            key: self.key.clone_key(),
            pair: self.pair.clone(),
            public: self.public,
            fingerprint: self.fingerprint,
        }
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({:?})", self.fingerprint)
    }
}

/// The configuration with which a server accepts: every peer must prove a key.
pub fn acceptor(certificate: &Certificate) -> Result<rustls::ServerConfig, rustls::Error> {
    let provider = provider();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(Verifier {
            pin: Pin::Anybody,
            found: OnceLock::new(),
        }))
        .with_single_cert(vec![certificate.der.clone()], certificate.key.clone_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Resumed sessions would skip the certificates.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The configuration with which a peer dials one that must satisfy the pin.
pub fn dialler(
    certificate: &Certificate,
    verifier: Arc<Verifier>,
) -> Result<rustls::ClientConfig, rustls::Error> {
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(vec![certificate.der.clone()], certificate.key.clone_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// The fingerprint of the public key in a certificate; `None` if it is not one.
pub fn fingerprint_of(certificate: &CertificateDer<'_>) -> Option<Fingerprint> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    Some(Fingerprint::of_public_key(
        &certificate.subject_public_key_info(),
    ))
}

/// The fingerprint that the peer of a connection has proved.
pub fn peer_fingerprint(connection: &quinn::Connection) -> Option<Fingerprint> {
    let chain = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    fingerprint_of(chain.first()?)
}

/// Whom a dialler expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// Any server that answers.
    Anybody,
    /// The server with this id, as a URL says.
    Id(ServerId),
    /// The server with this fingerprint, as a record says.
    Fingerprint(Fingerprint),
}

impl Pin {
    fn admits(self, found: Fingerprint) -> bool {
        match self {
            Pin::Anybody => true,
            Pin::Id(id) => id == found.id(),
            Pin::Fingerprint(fingerprint) => fingerprint == found,
        }
    }
}

/// Checks a peer's certificate against a pin, and that the peer holds its key.
#[derive(Debug)]
pub struct Verifier {
    pin: Pin,
    found: OnceLock<Fingerprint>,
}

impl Verifier {
    /// A verifier for one dial.
    pub fn new(pin: Pin) -> Arc<Verifier> {
        Arc::new(Verifier {
            pin,
            found: OnceLock::new(),
        })
    }

    /// The server that the dial met, if the pin did not admit it. The server may not have proved its
    /// fingerprint, so this is for messages only.
    pub fn rejected(&self) -> Option<Fingerprint> {
        self.found
            .get()
            .copied()
            .filter(|found| !self.pin.admits(*found))
    }

    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let found = fingerprint_of(certificate).ok_or(CertificateError::BadEncoding)?;
        if self.pin != Pin::Anybody {
            // A dial has one certificate message; a second would only repeat the message's text.
            let _ = self.found.set(found);
        }
        match self.pin.admits(found) {
            true => Ok(()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_signature(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }
}

/// Ed25519 alone: the only kind of key that a circuit's peers have.
static ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[webpki::ring::ED25519],
    mapping: &[(SignatureScheme::ED25519, &[webpki::ring::ED25519])],
};

fn no_tls12() -> rustls::Error {
    rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered)
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

/// ring, with AES-128 first: it is the cheapest of TLS 1.3's suites on processors with AES
/// instructions, and QUIC needs it for its first packets anyway (RFC 9001, section 5.2).
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let make = || {
        let mut provider = provider_of_ring::default_provider();
        provider.cipher_suites = vec![
            provider_of_ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
            provider_of_ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        Arc::new(provider)
    };
    PROVIDER.get_or_init(make).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_its_text() {
        let (certificate, text) = Certificate::generate().unwrap();
        assert_eq!(
            Certificate::from_pem(&text).unwrap().fingerprint(),
            certificate.fingerprint()
        );
        let (other, _) = Certificate::generate().unwrap();
        assert_ne!(other.fingerprint(), certificate.fingerprint());
        assert!(!format!("{certificate:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_signature_names_its_signer() {
        let (certificate, _) = Certificate::generate().unwrap();
        let signed = certificate.sign(b"message");
        assert_eq!(signed.signer(b"message"), Some(certificate.fingerprint()));
        assert_eq!(signed.signer(b"another"), None);
    }

    #[test]
    fn what_is_no_identity_is_refused() {
        assert!(Certificate::from_pem("").is_err());
        let (_, text) = Certificate::generate().unwrap();
        let cut = &text[..text.find("-----BEGIN CERT").unwrap()];
        assert!(Certificate::from_pem(cut).is_err());
        // Datagrams are signed with the key, which is read once: here.
        let (_, other) = Certificate::generate().unwrap();
        let at = |text: &str| text.find("-----BEGIN CERT").unwrap();
        let anothers = text[..at(&text)].to_owned() + &other[at(&other)..];
        assert!(Certificate::from_pem(&anothers).is_err());
        let kind = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let another_kind = kind.serialize_pem() + &text[at(&text)..];
        assert!(Certificate::from_pem(&another_kind).is_err());
    }
}
