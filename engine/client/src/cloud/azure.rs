//! Tokens of Azure: of a registered application, of a workload of Kubernetes, or of the machine.

use super::{Variables, get_token, parse_url, post_form, settings_error};
use crate::oauth2::Token;
use crate::{Client, Error, files};
use config::{AzureAd, AzureCloud};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

const INSTANCE: &str = "http://169.254.169.254";
const WORKLOAD_TOKEN_FILE: &str = "/var/run/secrets/azure/tokens/azure-identity-token";
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// How long an assertion that we sign holds.
const ASSERTION_SECONDS: u64 = 600;

pub struct Source {
    settings: AzureAd,
    variables: Variables,
}

impl Source {
    pub fn new(settings: &AzureAd, variables: Variables) -> Source {
        Source { settings: settings.clone(), variables }
    }

    fn variable(&self, name: &str) -> Option<String> {
        (self.variables)(name)
    }

    fn scope(&self) -> String {
        if !self.settings.scope.is_empty() {
            return self.settings.scope.clone();
        }
        let host = match self.settings.cloud {
            AzureCloud::Public => "https://monitor.azure.com",
            AzureCloud::China => "https://monitor.azure.cn",
            AzureCloud::Government => "https://monitor.azure.us",
        };
        format!("{host}//.default")
    }

    /// Where an application of a directory gets its tokens.
    fn token_url(&self, tenant: &str) -> String {
        let host = self.variable("AZURE_AUTHORITY_HOST").unwrap_or_else(|| {
            let host = match self.settings.cloud {
                AzureCloud::Public => "https://login.microsoftonline.com",
                AzureCloud::China => "https://login.chinacloudapi.cn",
                AzureCloud::Government => "https://login.microsoftonline.us",
            };
            host.to_owned()
        });
        format!("{}/{tenant}/oauth2/v2.0/token", host.trim_end_matches('/'))
    }

    pub async fn fetch(&self, service: &Client) -> Result<Token, Error> {
        let AzureAd { managed_identity, workload_identity, oauth, certificate, sdk, .. } = &self.settings;
        if let Some(oauth) = oauth {
            let secret = oauth.client_secret.as_ref().map_or("", |secret| secret.reveal());
            return self.with_secret(service, &oauth.tenant_id, &oauth.client_id, secret).await;
        }
        if let Some(workload) = workload_identity {
            let file = workload.token_file_path.clone();
            let file = file.or_else(|| self.variable("AZURE_FEDERATED_TOKEN_FILE").map(PathBuf::from));
            let file = file.unwrap_or_else(|| PathBuf::from(WORKLOAD_TOKEN_FILE));
            let assertion = files::read_secret(&file)?;
            return self.with_assertion(service, &workload.tenant_id, &workload.client_id, &assertion).await;
        }
        if let Some(certificate) = certificate {
            let assertion = signed_assertion(certificate, &self.token_url(&certificate.tenant_id))?;
            return self.with_assertion(service, &certificate.tenant_id, &certificate.client_id, &assertion).await;
        }
        if let Some(identity) = managed_identity {
            return self.of_machine(service, &identity.client_id).await;
        }
        let given = sdk.as_ref().map(|sdk| sdk.tenant_id.clone()).filter(|tenant| !tenant.is_empty());
        let tenant = given.or_else(|| self.variable("AZURE_TENANT_ID"));
        let client = self.variable("AZURE_CLIENT_ID");
        match (tenant, client) {
            (Some(tenant), Some(client)) => {
                if let Some(secret) = self.variable("AZURE_CLIENT_SECRET") {
                    return self.with_secret(service, &tenant, &client, &secret).await;
                }
                if let Some(file) = self.variable("AZURE_FEDERATED_TOKEN_FILE") {
                    let assertion = files::read_secret(PathBuf::from(file).as_path())?;
                    return self.with_assertion(service, &tenant, &client, &assertion).await;
                }
                self.of_machine(service, &client).await
            }
            (_, client) => self.of_machine(service, &client.unwrap_or_default()).await,
        }
    }

    async fn with_secret(&self, service: &Client, tenant: &str, client: &str, secret: &str) -> Result<Token, Error> {
        let scope = self.scope();
        let form =
            [("grant_type", "client_credentials"), ("client_id", client), ("client_secret", secret), ("scope", &scope)];
        post_form(service, &self.token_url(tenant), &form).await
    }

    async fn with_assertion(
        &self,
        service: &Client,
        tenant: &str,
        client: &str,
        assertion: &str,
    ) -> Result<Token, Error> {
        let scope = self.scope();
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", client),
            ("client_assertion_type", ASSERTION_TYPE),
            ("client_assertion", assertion),
            ("scope", &scope),
        ];
        post_form(service, &self.token_url(tenant), &form).await
    }

    async fn of_machine(&self, service: &Client, client: &str) -> Result<Token, Error> {
        let scope = self.scope();
        let resource = scope.strip_suffix("/.default").unwrap_or(&scope);
        let (url, version, header) = match self.variable("IDENTITY_ENDPOINT") {
            Some(endpoint) => {
                let secret = self.variable("IDENTITY_HEADER").unwrap_or_default();
                (endpoint, "2019-08-01", ("x-identity-header", secret))
            }
            None => {
                let host = self.variable("AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or_else(|| INSTANCE.to_owned());
                let url = format!("{}/metadata/identity/oauth2/token", host.trim_end_matches('/'));
                (url, "2018-02-01", ("metadata", "true".to_owned()))
            }
        };
        let mut url = parse_url(&url)?;
        url.query_pairs_mut().append_pair("api-version", version).append_pair("resource", resource);
        if !client.is_empty() {
            url.query_pairs_mut().append_pair("client_id", client);
        }
        get_token(service, url, header).await
    }
}

/// An assertion of who we are, signed by the key of a certificate that the directory knows.
fn signed_assertion(settings: &config::AzureCertificate, audience: &str) -> Result<String, Error> {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let wrong = |text: &str| settings_error(format!("azuread certificate: {text}"));
    if settings.certificate_password.is_some() {
        return Err(wrong("certificates with a password are not read; write certificate and key as PEM"));
    }
    let path = settings.certificate_path.as_ref().ok_or_else(|| wrong("certificate_path is missing"))?;
    let pem = files::read(path)?;
    let key_pem = settings.certificate_key_path.as_ref().map_or_else(|| Ok(pem.clone()), |path| files::read(path))?;
    let chain: Vec<CertificateDer> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
    let leaf = chain.first().ok_or_else(|| wrong("no certificate in PEM found"))?;
    let key = match PrivateKeyDer::from_pem_slice(&key_pem) {
        Ok(PrivateKeyDer::Pkcs8(der)) => ring::signature::RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
        Ok(PrivateKeyDer::Pkcs1(der)) => ring::signature::RsaKeyPair::from_der(der.secret_pkcs1_der()),
        _ => return Err(wrong("no private key in PEM found")),
    };
    let key = key.map_err(|error| wrong(&format!("no RSA key that can sign: {error}")))?;
    let random = ring::rand::SystemRandom::new();
    let mut unique = [0u8; 16];
    ring::rand::SecureRandom::fill(&random, &mut unique).map_err(|_| wrong("the system has no random numbers"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let thumbprint = ring::digest::digest(&ring::digest::SHA256, leaf);
    let mut header =
        serde_json::json!({"alg": "PS256", "typ": "JWT", "x5t#S256": URL_SAFE_NO_PAD.encode(thumbprint.as_ref())});
    if settings.send_certificate_chain {
        header["x5c"] = chain.iter().map(|one| serde_json::Value::from(STANDARD.encode(one))).collect();
    }
    let claims = serde_json::json!({
        "aud": audience, "iss": settings.client_id, "sub": settings.client_id,
        "jti": URL_SAFE_NO_PAD.encode(unique), "iat": now, "nbf": now, "exp": now + ASSERTION_SECONDS,
    });
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&ring::signature::RSA_PSS_SHA256, &random, text.as_bytes(), &mut signature)
        .map_err(|_| wrong("signing failed"))?;
    Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
}
