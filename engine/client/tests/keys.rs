//! Formats of RSA keys that sign requests and assertions, as openssl writes them.

use client::rsa::{RsaDigest, RsaKey};
use std::path::Path;
use std::process::Command;

/// Runs openssl in a folder; returns what it has written to `out`.
fn openssl(folder: &Path, line: &str, out: &str) -> String {
    let made =
        Command::new("openssl").current_dir(folder).args(line.split(' ')).output().expect("openssl is installed");
    assert!(made.status.success(), "{line}: {}", String::from_utf8_lossy(&made.stderr));
    std::fs::read_to_string(folder.join(out)).unwrap()
}

fn signature(pem: &str) -> Result<Vec<u8>, &'static str> {
    RsaKey::from_pem(pem.as_bytes())?.sign(RsaDigest::Sha256, b"text")
}

#[test]
fn keys_of_all_formats_without_a_pass_phrase_sign_alike() {
    let folder = tempfile::tempdir().unwrap();
    let pkcs8 = openssl(folder.path(), "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out a.pem", "a.pem");
    let pkcs1 = openssl(folder.path(), "rsa -in a.pem -traditional -out b.pem", "b.pem");
    assert!(pkcs8.starts_with("-----BEGIN PRIVATE KEY") && pkcs1.starts_with("-----BEGIN RSA PRIVATE KEY"));
    let want = signature(&pkcs8).unwrap();
    for (what, pem) in [
        ("PKCS#1", pkcs1.clone()),
        ("a line behind it, as Oracle's console appends one", format!("{pkcs8}OCI_API_KEY")),
        (
            "attributes before it",
            format!("Bag Attributes\n    friendlyName: key\nKey Attributes: <No Attributes>\n{pkcs8}"),
        ),
        ("line ends of Windows", pkcs1.replace('\n', "\r\n")),
        ("an empty line before it", format!("\n{pkcs1}")),
    ] {
        assert_eq!(signature(&pem), Ok(want.clone()), "{what}");
    }
}

#[test]
fn keys_that_cannot_be_read_say_what_to_write() {
    let folder = tempfile::tempdir().unwrap();
    let plain = openssl(folder.path(), "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out a.pem", "a.pem");
    let encrypted = openssl(folder.path(), "rsa -in a.pem -aes128 -passout pass:hush -out b.pem", "b.pem");
    let old = openssl(folder.path(), "rsa -in a.pem -traditional -aes128 -passout pass:hush -out c.pem", "c.pem");
    let public = openssl(folder.path(), "rsa -in a.pem -pubout -out d.pem", "d.pem");
    let curve = openssl(folder.path(), "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out e.pem", "e.pem");
    let small = openssl(folder.path(), "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out f.pem", "f.pem");
    for (pem, want) in [
        (encrypted.as_str(), "without a pass phrase"),
        (&old, "without a pass phrase"),
        (&public, "no private key in PEM found"),
        (&curve, "no RSA key that can sign"),
        (&small, "no RSA key that can sign"),
        (&plain[..plain.len() / 2], "no private key in PEM found"),
        ("", "no private key in PEM found"),
        ("hush", "no private key in PEM found"),
    ] {
        let error = signature(pem).expect_err(want);
        assert!(error.contains(want) && !error.contains("hush"), "{pem:.60}: {error}");
    }
}
