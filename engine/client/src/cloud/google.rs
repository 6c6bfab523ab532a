//! Tokens of Google: of a service account's key, of a person's login, or of the machine.

use super::{Variables, get_token, parse_url, post_form, settings_error};
use crate::oauth2::{Token, assertion};
use crate::{Client, Error, files};
use config::{GoogleIam, GrantType, OAuth2, Secret};
use serde_json::Value;
use std::path::{Path, PathBuf};

const SCOPE: &str = "https://www.googleapis.com/auth/monitoring.write";
const TOKEN_URL: &str = "https://oauth2.googleapis.com/token";
const METADATA_HOST: &str = "metadata.google.internal";

pub struct Source {
    settings: GoogleIam,
    variables: Variables,
}

impl Source {
    pub fn new(settings: &GoogleIam, variables: Variables) -> Source {
        Source { settings: settings.clone(), variables }
    }

    pub async fn fetch(&self, service: &Client) -> Result<Token, Error> {
        let variable = |name: &str| (self.variables)(name);
        let given = self.settings.credentials_file.clone();
        let given = given.or_else(|| variable("GOOGLE_APPLICATION_CREDENTIALS").map(PathBuf::from));
        if let Some(file) = given {
            return of_file(service, &file).await;
        }
        let home = variable("HOME").map(PathBuf::from);
        let login = home.map(|home| home.join(".config/gcloud/application_default_credentials.json"));
        if let Some(file) = login.filter(|file| file.exists()) {
            return of_file(service, &file).await;
        }
        let host = variable("GCE_METADATA_HOST").unwrap_or_else(|| METADATA_HOST.to_owned());
        let url = format!("http://{host}/computeMetadata/v1/instance/service-accounts/default/token");
        get_token(service, parse_url(&url)?, ("metadata-flavor", "Google".to_owned())).await
    }
}

async fn of_file(service: &Client, file: &Path) -> Result<Token, Error> {
    let wrong = |text: &str| settings_error(format!("{}: {text}", file.display()));
    let json: Value = serde_json::from_slice(&files::read(file)?).map_err(|_| wrong("no JSON"))?;
    let text = |name: &str| json[name].as_str().filter(|text| !text.is_empty());
    let required = |name: &str| text(name).ok_or_else(|| wrong(&format!("{name} is missing")));
    let token_url = text("token_uri").unwrap_or(TOKEN_URL);
    match text("type") {
        Some("service_account") => {
            let settings = OAuth2 {
                grant_type: Some(GrantType::JwtBearer),
                iss: required("client_email")?.to_owned(),
                audience: token_url.to_owned(),
                token_url: token_url.to_owned(),
                client_certificate_key: Some(Secret::new(required("private_key")?)),
                client_certificate_key_id: text("private_key_id").unwrap_or("").to_owned(),
                scopes: vec![SCOPE.to_owned()],
                ..OAuth2::default()
            };
            let signed = tokio::task::spawn_blocking(move || assertion(&settings)).await;
            let signed = signed.map_err(|panic| wrong(&panic.to_string()))??;
            let form = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", &signed)];
            post_form(service, token_url, &form).await
        }
        Some("authorized_user") => {
            let form = [
                ("grant_type", "refresh_token"),
                ("client_id", required("client_id")?),
                ("client_secret", required("client_secret")?),
                ("refresh_token", required("refresh_token")?),
            ];
            post_form(service, token_url, &form).await
        }
        Some(other) => Err(wrong(&format!("credentials of type {other:?} are not supported"))),
        None => Err(wrong("type is missing")),
    }
}
