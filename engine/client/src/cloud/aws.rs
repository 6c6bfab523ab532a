//! Credentials of AWS, in the order of its SDKs: the settings, the environment, a web identity, profile files, the container, the
//! instance; then a role, if one is to be assumed.

use super::{Variables, parse_url, settings_error};
use crate::aws_signature::{SigningKey, authorization};
use crate::{Client, Error, ErrorKind, Request, Response, auth, files};
use bytes::Bytes;
use config::SigV4;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method};
use series::{civil_from_days, parse_rfc3339};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Mutex;
use url::Url;

/// The service of Prometheus.
const SERVICE_DEFAULT: &str = "aps";
/// Credentials are renewed so long before they expire.
const RENEW_BEFORE: Duration = Duration::from_mins(2);
const SESSION_NAME: &str = "ringscrape";
const INSTANCE: &str = "http://169.254.169.254";
const CONTAINER: &str = "http://169.254.170.2";
const INSTANCE_TOKEN_SECONDS: &str = "21600";

#[derive(Clone)]
struct Credentials {
    access_key: String,
    secret_key: String,
    session_token: Option<String>,
    expires: Option<SystemTime>,
}

/// Signs requests.
pub struct Signer {
    settings: SigV4,
    service: Box<Client>,
    variables: Variables,
    held: Mutex<Option<Credentials>>,
}

/// `YYYYMMDD'T'HHMMSS'Z'`.
fn amz_date(now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (year, month, day) = civil_from_days((seconds / 86_400) as i64);
    let of_day = seconds % 86_400;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// Sections of an AWS file: `[name]`, then `key = value`.
fn profile(text: &str, name: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut is_wanted = false;
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            let section = section.trim();
            is_wanted = section.strip_prefix("profile ").map_or(section, str::trim) == name;
        } else if let Some((key, value)) = line.split_once('=').filter(|_| is_wanted && !line.starts_with(['#', ';'])) {
            found.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    found
}

/// The text of the first element of this name in an answer of STS.
fn element<'x>(xml: &'x str, name: &str) -> Option<&'x str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text.trim())
}

fn expiry(text: Option<&str>) -> Option<SystemTime> {
    let at = parse_rfc3339(text?)?;
    Some(UNIX_EPOCH + Duration::from_millis(u64::try_from(at.0).ok()?))
}

fn answered(what: &str, response: &Response) -> Error {
    Error::new(ErrorKind::Token, format!("{what} answered {}", response.status))
}

/// Credentials as containers and instances give them.
fn from_json(what: &str, response: &Response) -> Result<Credentials, Error> {
    if !response.status.is_success() {
        return Err(answered(what, response));
    }
    let json: serde_json::Value = serde_json::from_slice(&response.body)
        .map_err(|_| Error::new(ErrorKind::Token, format!("{what}: the answer is no JSON")))?;
    let text = |name: &str| json[name].as_str().map(str::to_owned);
    let (Some(access_key), Some(secret_key)) = (text("AccessKeyId"), text("SecretAccessKey")) else {
        return Err(Error::new(ErrorKind::Token, format!("{what}: the answer holds no keys")));
    };
    let expires = expiry(json["Expiration"].as_str());
    Ok(Credentials { access_key, secret_key, session_token: text("Token"), expires })
}

/// Credentials as STS gives them.
fn from_xml(what: &str, response: &Response) -> Result<Credentials, Error> {
    if !response.status.is_success() {
        return Err(answered(what, response));
    }
    let xml = String::from_utf8_lossy(&response.body);
    let text = |name: &str| element(&xml, name).map(str::to_owned);
    let (Some(access_key), Some(secret_key)) = (text("AccessKeyId"), text("SecretAccessKey")) else {
        return Err(Error::new(ErrorKind::Token, format!("{what}: the answer holds no keys")));
    };
    let expires = expiry(element(&xml, "Expiration"));
    Ok(Credentials { access_key, secret_key, session_token: text("SessionToken"), expires })
}

/// Headers that are signed if a request has them. Others may be added behind us, as `headers` of the settings are.
const SIGNED: [&str; 5] =
    ["content-encoding", "content-type", "x-amz-date", "x-amz-security-token", "x-prometheus-remote-write-version"];

impl Signer {
    pub fn new(settings: &SigV4, service: Box<Client>, variables: Variables) -> Signer {
        Signer { settings: settings.clone(), service, variables, held: Mutex::default() }
    }

    /// Adds date, session token and signature.
    pub async fn sign(&self, method: &Method, url: &Url, headers: &mut HeaderMap, body: &Bytes) -> Result<(), Error> {
        let named = |error: Error| Error::new(error.kind, format!("could not get SigV4 credentials: {}", error.text));
        let credentials = self.credentials().await.map_err(named)?;
        let service = Some(&*self.settings.service_name).filter(|name| !name.is_empty()).unwrap_or(SERVICE_DEFAULT);
        self.sign_with(&credentials, &self.region()?, service, (method, url, headers, body))
    }

    fn sign_with(
        &self,
        credentials: &Credentials,
        region: &str,
        service: &str,
        (method, url, headers, body): (&Method, &Url, &mut HeaderMap, &Bytes),
    ) -> Result<(), Error> {
        let date = amz_date(SystemTime::now());
        headers.insert("x-amz-date", auth::secret_value("x-amz-date", &date)?);
        if let Some(token) = &credentials.session_token {
            headers.insert("x-amz-security-token", auth::secret_value("x-amz-security-token", token)?);
        }
        let Credentials { access_key, secret_key, .. } = credentials;
        let key = SigningKey { access_key, secret_key, region, service };
        let value = authorization(&key, &date, method.as_str(), url, headers, &SIGNED, body);
        headers.insert(AUTHORIZATION, auth::secret_value("authorization", &value)?);
        Ok(())
    }

    pub async fn forget(&self) {
        *self.held.lock().await = None;
    }

    fn variable(&self, name: &str) -> Option<String> {
        (self.variables)(name)
    }

    fn region(&self) -> Result<String, Error> {
        if !self.settings.region.is_empty() {
            return Ok(self.settings.region.clone());
        }
        let of_environment = self.variable("AWS_REGION").or_else(|| self.variable("AWS_DEFAULT_REGION"));
        let region = of_environment.or_else(|| self.profile_entry("region"));
        region.ok_or_else(|| settings_error("region not configured in sigv4 or in default credentials chain"))
    }

    /// An entry of the profile in use.
    fn profile_entry(&self, key: &str) -> Option<String> {
        let given = Some(self.settings.profile.clone()).filter(|profile| !profile.is_empty());
        let name = given.or_else(|| self.variable("AWS_PROFILE")).unwrap_or_else(|| "default".to_owned());
        let home = self.variable("HOME").map(PathBuf::from);
        let file = |variable: &str, name: &str| {
            let of_home = || home.as_ref().map(|home| home.join(".aws").join(name));
            self.variable(variable).map(PathBuf::from).or_else(of_home)
        };
        let paths = [file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), file("AWS_CONFIG_FILE", "config")];
        paths.into_iter().flatten().find_map(|path| {
            let text = String::from_utf8(files::read(&path).ok()?).ok()?;
            profile(&text, &name).remove(key)
        })
    }

    async fn credentials(&self) -> Result<Credentials, Error> {
        let mut held = self.held.lock().await;
        let holds = |one: &&Credentials| one.expires.is_none_or(|expires| SystemTime::now() + RENEW_BEFORE < expires);
        if let Some(credentials) = held.as_ref().filter(holds) {
            return Ok(credentials.clone());
        }
        *held = None;
        let own = self.own_credentials().await?;
        let credentials = if self.settings.role_arn.is_empty() { own } else { self.assume_role(&own).await? };
        Ok(held.insert(credentials).clone())
    }

    async fn own_credentials(&self) -> Result<Credentials, Error> {
        let of = |access_key: String, secret_key: String, session_token| Credentials {
            access_key,
            secret_key,
            session_token,
            expires: None,
        };
        if let Some(secret) = &self.settings.secret_key {
            return Ok(of(self.settings.access_key.clone(), secret.reveal().to_owned(), None));
        }
        // A profile that is named goes before the environment.
        if self.settings.profile.is_empty()
            && let (Some(access), Some(secret)) =
                (self.variable("AWS_ACCESS_KEY_ID"), self.variable("AWS_SECRET_ACCESS_KEY"))
        {
            return Ok(of(access, secret, self.variable("AWS_SESSION_TOKEN")));
        }
        if self.settings.profile.is_empty()
            && let (Some(file), Some(role)) =
                (self.variable("AWS_WEB_IDENTITY_TOKEN_FILE"), self.variable("AWS_ROLE_ARN"))
        {
            return self.web_identity(&file, &role).await;
        }
        let entries = (self.profile_entry("aws_access_key_id"), self.profile_entry("aws_secret_access_key"));
        if let (Some(access), Some(secret)) = entries {
            return Ok(of(access, secret, self.profile_entry("aws_session_token")));
        }
        for unsupported in ["sso_session", "sso_start_url", "credential_process"] {
            if self.profile_entry(unsupported).is_some() {
                let text = format!("{unsupported} of a profile is not supported; use keys, a role or a web identity");
                return Err(settings_error(text));
            }
        }
        let full = self.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI");
        let relative = self.variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
        match full.or_else(|| relative.map(|path| format!("{CONTAINER}{path}"))) {
            Some(url) => self.of_container(&url).await,
            None => self.of_instance().await,
        }
    }

    async fn send(&self, request: Request) -> Result<Response, Error> {
        // A client that asks a client: boxed, or its future would contain itself.
        Box::pin(self.service.send(request)).await
    }

    async fn of_container(&self, url: &str) -> Result<Credentials, Error> {
        let mut request = Request::get(parse_url(url)?);
        let of_file = || {
            files::read_secret(PathBuf::from(self.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")?).as_path()).ok()
        };
        if let Some(token) = of_file().or_else(|| self.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN")) {
            request.headers.insert(AUTHORIZATION, auth::secret_value("authorization", &token)?);
        }
        from_json("the container's credentials", &self.send(request).await?)
    }

    async fn of_instance(&self) -> Result<Credentials, Error> {
        let what = "the instance's metadata";
        if self.variable("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Err(settings_error("no keys are configured, and the instance's metadata is disabled"));
        }
        let host = self.variable("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| INSTANCE.to_owned());
        let host = host.trim_end_matches('/');
        let mut request = Request::get(parse_url(&format!("{host}/latest/api/token"))?);
        request.method = Method::PUT;
        let ttl = HeaderValue::from_static(INSTANCE_TOKEN_SECONDS);
        request.headers.insert("x-aws-ec2-metadata-token-ttl-seconds", ttl);
        let response = self.send(request).await?;
        if !response.status.is_success() {
            return Err(answered(what, &response));
        }
        let token = String::from_utf8_lossy(&response.body).trim().to_owned();
        let get = async |path: &str| {
            let mut request =
                Request::get(parse_url(&format!("{host}/latest/meta-data/iam/security-credentials/{path}"))?);
            let value = auth::secret_value("x-aws-ec2-metadata-token", &token)?;
            request.headers.insert("x-aws-ec2-metadata-token", value);
            self.send(request).await
        };
        let roles = get("").await?;
        if !roles.status.is_success() {
            return Err(answered(what, &roles));
        }
        let roles = String::from_utf8_lossy(&roles.body).into_owned();
        let role = roles.lines().next().map(str::trim).filter(|role| !role.is_empty());
        let role = role.ok_or_else(|| Error::new(ErrorKind::Token, "the instance has no role"))?;
        from_json(what, &get(role).await?)
    }

    /// Where STS is.
    fn sts(&self) -> Result<Url, Error> {
        let region = self.region()?;
        let fips = if self.settings.use_fips_sts_endpoint { "-fips" } else { "" };
        let own = self.variable("AWS_ENDPOINT_URL_STS");
        parse_url(&own.unwrap_or_else(|| format!("https://sts{fips}.{region}.amazonaws.com/")))
    }

    async fn web_identity(&self, file: &str, role: &str) -> Result<Credentials, Error> {
        let token = files::read_secret(PathBuf::from(file).as_path())?;
        let session = self.variable("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| SESSION_NAME.to_owned());
        let form = [
            ("Action", "AssumeRoleWithWebIdentity"),
            ("Version", "2011-06-15"),
            ("RoleArn", role),
            ("RoleSessionName", &session),
            ("WebIdentityToken", &token),
        ];
        let response = self.send(form_request(self.sts()?, &form)).await?;
        from_xml("AssumeRoleWithWebIdentity", &response)
    }

    async fn assume_role(&self, own: &Credentials) -> Result<Credentials, Error> {
        let mut form = vec![
            ("Action", "AssumeRole"),
            ("Version", "2011-06-15"),
            ("RoleArn", &*self.settings.role_arn),
            ("RoleSessionName", SESSION_NAME),
        ];
        if !self.settings.external_id.is_empty() {
            form.push(("ExternalId", &self.settings.external_id));
        }
        let mut request = form_request(self.sts()?, &form);
        let Request { method, url, headers, body, .. } = &mut request;
        self.sign_with(own, &self.region()?, "sts", (method, url, headers, body))?;
        from_xml("AssumeRole", &self.send(request).await?)
    }
}

fn form_request(url: Url, form: &[(&str, &str)]) -> Request {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    Request::post(url, body.into_bytes()).header(http::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_profiles_are_read() {
        let text =
            "[default]\naws_access_key_id = A\n# c = d\n[profile other]\nregion=eu-west-1\nAWS_SECRET_ACCESS_KEY=x=y\n";
        assert_eq!(profile(text, "default"), BTreeMap::from([("aws_access_key_id".to_owned(), "A".to_owned())]));
        let other = profile(text, "other");
        assert_eq!((&*other["region"], &*other["aws_secret_access_key"]), ("eu-west-1", "x=y"));
        assert!(profile(text, "none").is_empty());
    }

    #[test]
    fn dates_are_those_of_aws() {
        assert_eq!(amz_date(UNIX_EPOCH + Duration::from_secs(1_440_938_160)), "20150830T123600Z");
        assert_eq!(expiry(Some("2015-08-30T12:36:00Z")), Some(UNIX_EPOCH + Duration::from_secs(1_440_938_160)));
        assert_eq!(expiry(Some("soon")), None);
    }
}
