//! TLS by rustls with ring.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem};
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::Fault;

/// Certificate files. They are read again for each connection, so that certificates can
/// be renewed while a lock is held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM file with the authorities to trust instead of the system's.
    pub cacert: Option<PathBuf>,
    /// PEM files of the client's own certificate chain and of its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Whether any certificate will do: this protects against eavesdroppers only.
    pub trusts_anybody: bool,
}

/// Encrypts a connection, and checks that `host` is at its other end.
pub(super) async fn secure(files: &TlsFiles, host: &str, tcp: TcpStream) -> Result<TlsStream<TcpStream>, Fault> {
    let config = config(files)?;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Fault::refused(format!("{host} is not a name that a certificate can have")))?;
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|error| explain(error, host, files))
}

fn config(files: &TlsFiles) -> Result<ClientConfig, Fault> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Fault::refused(format!("TLS: {error}")))?;
    let config = match files.trusts_anybody {
        true => config.dangerous().with_custom_certificate_verifier(Arc::new(TrustsAnybody(provider))),
        false => config.with_root_certificates(authorities(files)?),
    };
    let Some((cert, key)) = &files.identity else {
        return Ok(config.with_no_client_auth());
    };
    let chain = certificates(cert)?;
    let key_der = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| Fault::refused(format!("cannot read the key {}: {}", key.display(), in_words(&error))))?;
    config.with_client_auth_cert(chain, key_der).map_err(|error| {
        let (cert, key) = (cert.display(), key.display());
        Fault::refused(format!("cannot use the certificate {cert} with the key {key}: {error}"))
    })
}

/// Takes any certificate whose key the server has.
#[derive(Debug)]
struct TrustsAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustsAnybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Reads the system's certificates, some 140, only if no others are given.
fn authorities(files: &TlsFiles) -> Result<RootCertStore, Fault> {
    let mut roots = RootCertStore::empty();
    if let Some(cacert) = &files.cacert {
        let given = certificates(cacert)?;
        if let (0, _) = roots.add_parsable_certificates(given) {
            return Err(Fault::refused(format!("no usable certificate in {}", cacert.display())));
        }
        return Ok(roots);
    }
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    match roots.is_empty() {
        true => Err(Fault::refused("this system trusts no certificate authority: give cacert=FILE")),
        false => Ok(roots),
    }
}

fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let cannot = |error: &pem::Error| {
        Fault::refused(format!("cannot read the certificate {}: {}", path.display(), in_words(error)))
    };
    let found = CertificateDer::pem_file_iter(path).map_err(|error| cannot(&error))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| cannot(&error))?;
    match found.is_empty() {
        true => Err(cannot(&pem::Error::NoItemsFound)),
        false => Ok(found),
    }
}

fn in_words(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => "none found in the file (expected PEM)".into(),
        error => error.to_string(),
    }
}

/// A client certificate that the server rejects. TLS 1.3 reports it after the handshake.
pub fn refusal(error: &io::Error) -> Option<Fault> {
    let Some(Error::AlertReceived(alert)) = error.get_ref()?.downcast_ref() else { return None };
    let is_about_us = matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied
    );
    let text = || format!("it rejects our client certificate: check cert=FILE and key=FILE (TLS alert {alert:?})");
    is_about_us.then(|| Fault::refused(text()))
}

/// Errors of rustls itself are permanent; a broken connection may be a server that
/// restarts.
fn explain(error: io::Error, host: &str, files: &TlsFiles) -> Fault {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match tls {
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            Fault::not_answered("the server closed the connection during the TLS handshake")
        }
        None => Fault::not_answered(format!("TLS handshake: {error}")),
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            Fault::refused(match &files.cacert {
                Some(cacert) => format!("its certificate is not signed by an authority in {}", cacert.display()),
                None => "its certificate is signed by an unknown authority: give cacert=FILE".into(),
            })
        }
        Some(Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => Fault::refused(format!("its certificate is not for {host}")),
        Some(Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. })) => {
            Fault::refused("its certificate has expired")
        }
        Some(Error::InvalidMessage(_)) => Fault::refused("it does not speak TLS"),
        Some(error) => Fault::refused(format!("TLS: {error}")),
    }
}
