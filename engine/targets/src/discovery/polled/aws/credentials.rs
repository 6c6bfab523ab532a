//! Where credentials and region of AWS come from, in the order of its own clients: the section, the environment, the
//! files of a profile, a web identity, the container, the machine. A role is assumed with what was found.

use super::super::clock;
use super::super::row::text_at;
use super::super::session::{Call, Session, reveal};
use super::super::sigv4::{self, Credentials, Scope};
use super::public_endpoint;
use client::{Method, Url};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

const MACHINE: &str = "http://169.254.169.254/latest/";
const CONTAINER: &str = "http://169.254.170.2";
/// Time after which credentials of the machine, of a container or of a role are asked for again. They hold for an hour or
/// more.
const HOLDS: Duration = Duration::from_secs(900);

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Returns the region.
pub async fn region(session: &Session) -> Result<String, String> {
    let given = session.text("region");
    if !given.is_empty() {
        return Ok(given.to_owned());
    }
    if let Some(region) = environment("AWS_REGION").or_else(|| environment("AWS_DEFAULT_REGION")) {
        return Ok(region);
    }
    if let Some(region) = profile(session).await.get("region") {
        return Ok(region.clone());
    }
    if let Some(region) = session.recall("region") {
        return Ok(region.as_str().unwrap_or_default().to_owned());
    }
    let found = of_machine(session, "dynamic/instance-identity/document").await;
    let region = found.map(|document| text_at(&document, "/region").to_owned());
    match region {
        Ok(region) if !region.is_empty() => {
            session.keep("region", region.as_str().into(), None);
            Ok(region)
        }
        Ok(_) => Err("could not determine AWS region: the machine does not say".to_owned()),
        Err(error) => Err(format!("could not determine AWS region: {error}")),
    }
}

/// Returns the credentials.
pub async fn find(session: &Session, region: &str) -> Result<Credentials, String> {
    let settings = session.settings();
    let role = settings.text("role_arn");
    if let Some(kept) = session.recall("credentials") {
        return Ok(of_json(session, &kept));
    }
    let (access_key, secret_key) = (settings.text("access_key"), reveal(settings.secret("secret_key")));
    let found = if !access_key.is_empty() && !secret_key.is_empty() {
        Credentials { access_key: access_key.to_owned(), secret_key: secret_key.to_owned(), token: String::new() }
    } else {
        of_surroundings(session, region).await?
    };
    if role.is_empty() {
        return Ok(found);
    }
    let mut form = vec![
        ("Action", "AssumeRole".to_owned()),
        ("RoleArn", role.to_owned()),
        ("RoleSessionName", format!("ringscrape-{}", clock::now())),
        ("Version", "2011-06-15".to_owned()),
    ];
    if !settings.text("external_id").is_empty() {
        form.push(("ExternalId", settings.text("external_id").to_owned()));
    }
    let mut call = Call::form(tokens_url(region)?, &form).xml();
    let scope = Scope { region, service: "sts", signs_accept: false };
    sigv4::sign(call.request_mut(), &found, &scope, clock::now());
    let answer = session.call(call).await.map_err(|error| format!("AssumeRole: {}", error.text))?;
    taken(session, &answer.body, "AssumeRole")
}

fn tokens_url(region: &str) -> Result<Url, String> {
    Url::parse(&public_endpoint("sts", region)).map_err(|error| error.to_string())
}

/// Reads an answer of the token service, and keeps what it gives.
fn taken(session: &Session, body: &Value, action: &str) -> Result<Credentials, String> {
    let base = format!("/{action}Response/{action}Result/Credentials");
    let field = |name: &str| text_at(body, &format!("{base}/{name}")).to_owned();
    remember(
        session,
        &json!({
            "AccessKeyId": field("AccessKeyId"),
            "SecretAccessKey": field("SecretAccessKey"),
            "Token": field("SessionToken"),
        }),
    )
    .map_err(|error| format!("{action}: {error}"))
}

fn of_json(session: &Session, value: &Value) -> Credentials {
    let credentials = Credentials {
        access_key: text_at(value, "/AccessKeyId").to_owned(),
        secret_key: text_at(value, "/SecretAccessKey").to_owned(),
        token: text_at(value, "/Token").to_owned(),
    };
    session.hide(&credentials.secret_key);
    session.hide(&credentials.token);
    credentials
}

/// Keeps credentials that hold for a while.
fn remember(session: &Session, value: &Value) -> Result<Credentials, String> {
    let credentials = of_json(session, value);
    if credentials.access_key.is_empty() || credentials.secret_key.is_empty() {
        return Err("the answer holds no credentials".to_owned());
    }
    session.keep("credentials", value.clone(), Some(HOLDS));
    Ok(credentials)
}

async fn of_surroundings(session: &Session, region: &str) -> Result<Credentials, String> {
    let has_profile = !session.text("profile").is_empty();
    if !has_profile
        && let (Some(access_key), Some(secret_key)) =
            (environment("AWS_ACCESS_KEY_ID"), environment("AWS_SECRET_ACCESS_KEY"))
    {
        let token = environment("AWS_SESSION_TOKEN").unwrap_or_default();
        session.hide(&secret_key);
        session.hide(&token);
        return Ok(Credentials { access_key, secret_key, token });
    }
    let profile = profile(session).await;
    if let (Some(access_key), Some(secret_key)) =
        (profile.get("aws_access_key_id"), profile.get("aws_secret_access_key"))
    {
        let token = profile.get("aws_session_token").cloned().unwrap_or_default();
        session.hide(secret_key);
        session.hide(&token);
        return Ok(Credentials { access_key: access_key.clone(), secret_key: secret_key.clone(), token });
    }
    if has_profile {
        return Err(format!("the profile {:?} has no access key", session.text("profile")));
    }
    if let (Some(file), Some(role)) = (environment("AWS_WEB_IDENTITY_TOKEN_FILE"), environment("AWS_ROLE_ARN")) {
        let identity = super::super::session::read_secret(&PathBuf::from(file)).await?;
        session.hide(&identity);
        let name = environment("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| format!("ringscrape-{}", clock::now()));
        let form = [
            ("Action", "AssumeRoleWithWebIdentity".to_owned()),
            ("RoleArn", role),
            ("RoleSessionName", name),
            ("WebIdentityToken", identity),
            ("Version", "2011-06-15".to_owned()),
        ];
        let answer = session.call(Call::form(tokens_url(region)?, &form).xml()).await?;
        return taken(session, &answer.body, "AssumeRoleWithWebIdentity");
    }
    if let Some(call) = of_container().await? {
        let answer = session.call(call).await?;
        return remember(session, &answer.body);
    }
    let failed = |error: String| format!("no credentials: not in the section, the environment or a profile; {error}");
    let role = of_machine_text(session, "meta-data/iam/security-credentials/").await.map_err(failed)?;
    let role = role.lines().next().unwrap_or("").trim().to_owned();
    let path = format!("meta-data/iam/security-credentials/{role}");
    let value = of_machine(session, &path).await.map_err(failed)?;
    remember(session, &value)
}

/// The request for credentials of a container, if it has some.
async fn of_container() -> Result<Option<Call>, String> {
    let relative = environment("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").map(|path| format!("{CONTAINER}{path}"));
    let Some(url) = relative.or_else(|| environment("AWS_CONTAINER_CREDENTIALS_FULL_URI")) else { return Ok(None) };
    let url = Url::parse(&url).map_err(|error| format!("credentials of the container: {error}"))?;
    let mut call = Call::get(url).plain();
    let token = match environment("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        Some(file) => Some(super::super::session::read_secret(&PathBuf::from(file)).await?),
        None => environment("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
    };
    if let Some(token) = token {
        call = call.secret_header("authorization", &token);
    }
    Ok(Some(call))
}

/// A request to the metadata service of the machine, with a token of its own.
async fn machine_call(session: &Session, path: &str) -> Result<Call, String> {
    let url = |path: &str| Url::parse(&format!("{MACHINE}{path}")).map_err(|error| error.to_string());
    let token = Call::get(url("api/token")?)
        .method(Method::PUT)
        .plain()
        .text()
        .header("x-aws-ec2-metadata-token-ttl-seconds", "300");
    let token = session.call(token).await?;
    let token = token.body.as_str().unwrap_or_default().to_owned();
    session.hide(&token);
    Ok(Call::get(url(path)?).plain().secret_header("x-aws-ec2-metadata-token", &token))
}

async fn of_machine(session: &Session, path: &str) -> Result<Value, String> {
    Ok(session.call(machine_call(session, path).await?).await?.body)
}

async fn of_machine_text(session: &Session, path: &str) -> Result<String, String> {
    let answer = session.call(machine_call(session, path).await?.text()).await?;
    Ok(answer.body.as_str().unwrap_or_default().to_owned())
}

/// The settings of the profile in the files of AWS' clients; empty if there are none.
async fn profile(session: &Session) -> HashMap<String, String> {
    let given = session.text("profile").to_owned();
    let name =
        if given.is_empty() { environment("AWS_PROFILE").unwrap_or_else(|| "default".to_owned()) } else { given };
    let home = environment("HOME").map(PathBuf::from).unwrap_or_default();
    let file = |variable: &str, path: &str| environment(variable).map_or_else(|| home.join(path), PathBuf::from);
    let files = [
        (file("AWS_CONFIG_FILE", ".aws/config"), format!("profile {name}")),
        (file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"), name.clone()),
    ];
    let mut settings = HashMap::new();
    for (file, section) in files {
        let read = tokio::task::spawn_blocking(move || client::files::read(&file)).await;
        let Ok(Ok(bytes)) = read else { continue };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        settings.extend(of_profile(&text, &[section.as_str(), name.as_str()]));
    }
    settings
}

/// Reads the settings of a section that has one of these names.
fn of_profile(text: &str, names: &[&str]) -> HashMap<String, String> {
    let mut settings = HashMap::new();
    let mut is_ours = false;
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            is_ours = names.contains(&section.trim());
        } else if let Some((name, value)) = line.split_once('=').filter(|_| is_ours) {
            settings.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::super::super::xml;
    use super::*;

    #[test]
    fn profiles_are_read() {
        let text = "[default]\nregion = a\n# x = y\n[ profile dev ]\nregion=eu-west-1 \naws_access_key_id = K\n[other]\nregion = c";
        let found = of_profile(text, &["profile dev", "dev"]);
        assert_eq!((found["region"].as_str(), found["aws_access_key_id"].as_str(), found.len()), ("eu-west-1", "K", 2));
        assert_eq!(of_profile(text, &["profile default", "default"])["region"], "a");
        assert!(of_profile("= \n[\n]", &["x"]).is_empty());
    }

    #[test]
    fn an_answer_of_the_token_service() {
        let answer = b"<AssumeRoleResponse xmlns=\"u\"><AssumeRoleResult><Credentials><AccessKeyId>A</AccessKeyId>\
            <SecretAccessKey>S</SecretAccessKey><SessionToken>T</SessionToken></Credentials></AssumeRoleResult></AssumeRoleResponse>";
        let body = xml::parse(answer).unwrap();
        assert_eq!(text_at(&body, "/AssumeRoleResponse/AssumeRoleResult/Credentials/SessionToken"), "T");
    }
}
