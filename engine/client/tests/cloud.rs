//! Credentials of clouds, from services of the test's own.

mod support;

use client::{Client, ClientOptions, Cloud, Error, Request, StatusCode, Variables};
use config::{
    AzureAd, AzureCertificate, AzureManagedIdentity, AzureOAuth, AzureWorkloadIdentity, GoogleIam, HttpConfig, Secret,
    SigV4,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use support::{Server, answer, ok};

const TIMEOUT: Duration = Duration::from_secs(20);

fn header(request: &str, name: &str) -> String {
    let line = |line: &str| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then(|| value.to_owned())
    };
    request.lines().filter_map(line).collect::<Vec<_>>().join("|")
}

fn variables(pairs: &[(&str, String)]) -> Variables {
    let pairs: BTreeMap<String, String> =
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Arc::new(move |name| pairs.get(name).cloned())
}

fn client(cloud: Result<Cloud, Error>) -> Client {
    let options = ClientOptions { timeout: TIMEOUT, ..ClientOptions::default() };
    Client::with_cloud(&HttpConfig::default(), options, Some(cloud.unwrap())).unwrap()
}

/// The head of a request that was sent with these credentials.
async fn sent(client: &Client, server: &Server) -> Result<String, Error> {
    let mut request = Request::post(server.url("/workspaces/ws/api/v1/remote_write"), "body");
    request.headers.insert("x-prometheus-remote-write-version", "0.1.0".parse().unwrap());
    client.send(request).await?;
    Ok(server.last())
}

fn origin(server: &Server) -> String {
    server.url("/").to_string().trim_end_matches('/').to_owned()
}

#[tokio::test]
async fn requests_to_aws_are_signed_with_the_keys_that_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::plain(|_| ok("x")).await;
    let keys = SigV4 {
        region: "eu-west-1".into(),
        access_key: "KEY".into(),
        secret_key: Some(Secret::new("secret")),
        ..SigV4::default()
    };
    let head = sent(&client(Cloud::aws(&keys, TIMEOUT, variables(&[]))), &server).await.unwrap();
    let signature = header(&head, "authorization");
    let date = header(&head, "x-amz-date");
    let scope = format!("AWS4-HMAC-SHA256 Credential=KEY/{}/eu-west-1/aps/aws4_request, ", &date[..8]);
    assert!(signature.starts_with(&scope), "{signature}");
    assert!(signature.contains("SignedHeaders=host;x-amz-date;x-prometheus-remote-write-version, "), "{signature}");
    assert!(!head.contains("secret") && header(&head, "x-amz-security-token").is_empty());

    // Of the environment, which also says the region; of a profile; of the container; of the instance.
    let credentials = folder.path().join("credentials");
    std::fs::write(&credentials, "[p]\naws_access_key_id=PROFILE\naws_secret_access_key=s\nregion=r3\n").unwrap();
    let json = r#"{"AccessKeyId": "KEY5", "SecretAccessKey": "s", "Token": "t", "Expiration": "2099-01-01T00:00:00Z"}"#;
    let service = Server::plain(move |request| match request.split(' ').nth(1).unwrap() {
        "/latest/api/token" => ok("instance-token"),
        "/latest/meta-data/iam/security-credentials/" => ok("role\n"),
        "/latest/meta-data/iam/security-credentials/role" => {
            assert_eq!(header(request, "x-aws-ec2-metadata-token"), "instance-token");
            ok(json)
        }
        "/container" => {
            assert_eq!(header(request, "authorization"), "container-token");
            ok(&json.replace("KEY5", "KEY4"))
        }
        other => panic!("{other}"),
    })
    .await;
    let text = |text: &str| text.to_owned();
    let environment = [
        ("AWS_ACCESS_KEY_ID", text("KEY2")),
        ("AWS_SECRET_ACCESS_KEY", text("s")),
        ("AWS_SESSION_TOKEN", text("session")),
        ("AWS_REGION", text("r2")),
    ];
    let profile = [("AWS_PROFILE", text("p")), ("AWS_SHARED_CREDENTIALS_FILE", credentials.display().to_string())];
    let container = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", service.url("/container").to_string()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", text("container-token")),
        ("AWS_REGION", text("r4")),
    ];
    let instance = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", origin(&service)), ("AWS_REGION", text("r5"))];
    for (given, key, region, token) in [
        (&environment[..], "KEY2", "r2", "session"),
        (&profile, "PROFILE", "r3", ""),
        (&container, "KEY4", "r4", "t"),
        (&instance, "KEY5", "r5", "t"),
    ] {
        let client = client(Cloud::aws(&SigV4::default(), TIMEOUT, variables(given)));
        for _ in 0..2 {
            let head = sent(&client, &server).await.unwrap();
            let signature = header(&head, "authorization");
            assert!(signature.contains(&format!("Credential={key}/")), "{signature}");
            assert!(signature.contains(&format!("/{region}/aps/aws4_request")), "{signature}");
            assert_eq!(header(&head, "x-amz-security-token"), token);
        }
    }
    assert_eq!(service.count(), 4, "credentials are fetched once");
    let nothing = [("AWS_EC2_METADATA_DISABLED", text("true"))];
    let error = sent(&client(Cloud::aws(&SigV4::default(), TIMEOUT, variables(&nothing))), &server).await.unwrap_err();
    assert!(error.text.contains("could not get SigV4 credentials: "), "{error}");
    let no_region = SigV4 { region: String::new(), ..keys };
    let error = sent(&client(Cloud::aws(&no_region, TIMEOUT, variables(&[]))), &server).await.unwrap_err();
    assert!(error.text.contains("region not configured in sigv4 or in default credentials chain"), "{error}");
}

#[tokio::test]
async fn roles_of_aws_are_assumed_and_renewed_when_they_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "web-token\n").unwrap();
    let given = Arc::new(AtomicUsize::new(0));
    let count = given.clone();
    let sts = Server::plain(move |request| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        ok(&format!(
            "<R><Credentials><AccessKeyId>ROLE{number}</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t\
             </SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></R><!--{}-->",
            request.len()
        ))
    })
    .await;
    let endpoint = ("AWS_ENDPOINT_URL_STS", origin(&sts));
    let server = Server::plain(|request| match request.contains("Credential=ROLE0/") {
        true => answer("403 Forbidden", "", b"expired"),
        false => ok("x"),
    })
    .await;
    let settings = SigV4 {
        region: "r".into(),
        access_key: "KEY".into(),
        secret_key: Some(Secret::new("hush")),
        role_arn: "arn:aws:iam::1:role/x".into(),
        external_id: "ext".into(),
        ..SigV4::default()
    };
    let role = client(Cloud::aws(&settings, TIMEOUT, variables(std::slice::from_ref(&endpoint))));
    sent(&role, &server).await.unwrap();
    let asked = sts.last();
    assert!(
        asked.ends_with(
            "Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fx&RoleSessionName=ringscrape&\
         ExternalId=ext"
        ),
        "{asked}"
    );
    assert!(header(&asked, "authorization").contains("/r/sts/aws4_request"), "{asked}");
    // What was refused is not used again.
    let head = sent(&role, &server).await.unwrap();
    assert!(header(&head, "authorization").contains("Credential=ROLE1/"), "{head}");
    let web = [
        endpoint,
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.display().to_string()),
        ("AWS_ROLE_ARN", "arn:r".to_owned()),
        ("AWS_REGION", "r".to_owned()),
    ];
    let head = sent(&client(Cloud::aws(&SigV4::default(), TIMEOUT, variables(&web))), &server).await.unwrap();
    assert!(header(&head, "authorization").contains("Credential=ROLE2/"), "{head}");
    assert!(
        sts.last().contains("Action=AssumeRoleWithWebIdentity") && sts.last().ends_with("WebIdentityToken=web-token")
    );
}

/// A service of tokens, and what it was asked last.
async fn tokens() -> Server {
    Server::plain(|_| ok(r#"{"access_token": "t", "token_type": "Bearer", "expires_in": "3600"}"#)).await
}

#[tokio::test]
async fn tokens_of_azure_come_by_secret_assertion_and_machine() {
    let folder = tempfile::tempdir().unwrap();
    let (service, server) = (tokens().await, Server::plain(|_| ok("x")).await);
    let authority = ("AZURE_AUTHORITY_HOST", origin(&service));
    let id = || ("c1".to_owned(), "t1".to_owned());
    let (client_id, tenant_id) = id();
    let oauth = AzureOAuth { client_id, tenant_id, client_secret: Some(Secret::new("hush")) };
    let settings = AzureAd { oauth: Some(oauth), ..AzureAd::default() };
    let with_secret = client(Cloud::azure(&settings, TIMEOUT, variables(std::slice::from_ref(&authority))));
    for _ in 0..3 {
        assert_eq!(header(&sent(&with_secret, &server).await.unwrap(), "authorization"), "Bearer t");
    }
    assert_eq!(service.count(), 1);
    let asked = service.last();
    assert!(asked.starts_with("POST /t1/oauth2/v2.0/token "), "{asked}");
    let form = "grant_type=client_credentials&client_id=c1&client_secret=hush&scope=https%3A%2F%2Fmonitor.azure.com%2F%2F.default";
    assert!(asked.ends_with(form), "{asked}");

    let file = folder.path().join("federated");
    std::fs::write(&file, "assertion\n").unwrap();
    let (client_id, tenant_id) = id();
    let workload = AzureWorkloadIdentity { client_id, tenant_id, token_file_path: Some(file) };
    let settings = AzureAd { workload_identity: Some(workload), scope: "s".into(), ..AzureAd::default() };
    sent(&client(Cloud::azure(&settings, TIMEOUT, variables(std::slice::from_ref(&authority)))), &server)
        .await
        .unwrap();
    let asked = service.last();
    assert!(asked.contains("client_assertion=assertion&scope=s"), "{asked}");

    let (key, certificate) = (folder.path().join("key.pem"), folder.path().join("cert.pem"));
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-days", "2", "-keyout"])
        .args([key.as_os_str(), "-out".as_ref(), certificate.as_os_str()])
        .output()
        .unwrap();
    assert!(made.status.success(), "openssl makes a certificate");
    let (client_id, tenant_id) = id();
    let own = AzureCertificate {
        client_id,
        tenant_id,
        certificate_path: Some(certificate),
        certificate_key_path: Some(key),
        send_certificate_chain: true,
        ..AzureCertificate::default()
    };
    let settings = AzureAd { certificate: Some(own), ..AzureAd::default() };
    sent(&client(Cloud::azure(&settings, TIMEOUT, variables(&[authority]))), &server).await.unwrap();
    let asked = service.last();
    let assertion = asked.split("client_assertion=").nth(1).unwrap().split('&').next().unwrap();
    use base64::Engine;
    let decode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap();
    let part = |at: usize| decode(assertion.split('.').nth(at).unwrap());
    let (head, claims): (serde_json::Value, serde_json::Value) =
        (serde_json::from_slice(&part(0)).unwrap(), serde_json::from_slice(&part(1)).unwrap());
    assert!(head["alg"] == "PS256" && head["x5t#S256"].is_string() && head["x5c"][0].is_string(), "{head}");
    assert_eq!((&claims["sub"], &claims["aud"]), (&"c1".into(), &service.url("/t1/oauth2/v2.0/token").as_str().into()));

    let identity = AzureManagedIdentity { client_id: "c1".into() };
    let settings = AzureAd { managed_identity: Some(identity), ..AzureAd::default() };
    let machine = [("AZURE_POD_IDENTITY_AUTHORITY_HOST", origin(&service))];
    sent(&client(Cloud::azure(&settings, TIMEOUT, variables(&machine))), &server).await.unwrap();
    let asked = service.last();
    let path = "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fmonitor.azure.com%2F&client_id=c1 ";
    assert!(asked.starts_with(path) && header(&asked, "metadata") == "true", "{asked}");
    let app_service = [("IDENTITY_ENDPOINT", service.url("/msi").to_string()), ("IDENTITY_HEADER", "h".to_owned())];
    sent(&client(Cloud::azure(&settings, TIMEOUT, variables(&app_service))), &server).await.unwrap();
    let asked = service.last();
    assert!(
        asked.starts_with("GET /msi?api-version=2019-08-01") && header(&asked, "x-identity-header") == "h",
        "{asked}"
    );
}

#[tokio::test]
async fn tokens_of_google_come_by_key_login_and_machine() {
    let folder = tempfile::tempdir().unwrap();
    let (service, server) = (tokens().await, Server::plain(|_| ok("x")).await);
    let key = folder.path().join("key.pem");
    let made = std::process::Command::new("openssl").args(["genrsa", "-out"]).arg(&key).output().unwrap();
    assert!(made.status.success(), "openssl makes an RSA key");
    let account = serde_json::json!({
        "type": "service_account", "client_email": "a@b", "private_key_id": "k",
        "private_key": std::fs::read_to_string(&key).unwrap(), "token_uri": service.url("/token").as_str(),
    });
    let file = folder.path().join("account.json");
    std::fs::write(&file, account.to_string()).unwrap();
    let settings = GoogleIam { credentials_file: Some(file.clone()) };
    let by_key = client(Cloud::google(&settings, TIMEOUT, variables(&[])));
    assert_eq!(header(&sent(&by_key, &server).await.unwrap(), "authorization"), "Bearer t");
    let asked = service.last();
    let assertion = asked.split("assertion=").nth(1).unwrap();
    use base64::Engine;
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(assertion.split('.').nth(1).unwrap()).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["iss"], "a@b");
    assert_eq!(claims["scope"], "https://www.googleapis.com/auth/monitoring.write");
    assert!(claims["sub"].is_null(), "nobody is impersonated");
    let login = serde_json::json!({
        "type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r",
        "token_uri": service.url("/token").as_str(),
    });
    std::fs::write(&file, login.to_string()).unwrap();
    let by_variable = variables(&[("GOOGLE_APPLICATION_CREDENTIALS", file.display().to_string())]);
    sent(&client(Cloud::google(&GoogleIam::default(), TIMEOUT, by_variable)), &server).await.unwrap();
    assert!(service.last().ends_with("grant_type=refresh_token&client_id=c&client_secret=s&refresh_token=r"));
    let host = origin(&service).trim_start_matches("http://").to_owned();
    let machine = variables(&[("GCE_METADATA_HOST", host)]);
    sent(&client(Cloud::google(&GoogleIam::default(), TIMEOUT, machine)), &server).await.unwrap();
    let asked = service.last();
    assert!(asked.starts_with("GET /computeMetadata/v1/instance/service-accounts/default/token "), "{asked}");
    assert_eq!(header(&asked, "metadata-flavor"), "Google");
    // Errors name the file and not what is in it.
    std::fs::write(&file, r#"{"type": "service_account", "private_key": "hush"}"#).unwrap();
    let error = sent(&client(Cloud::google(&settings, TIMEOUT, variables(&[]))), &server).await.unwrap_err();
    assert!(error.text.contains("client_email is missing") && !error.text.contains("hush"), "{error}");
    let refused = client(Cloud::google(
        &GoogleIam::default(),
        TIMEOUT,
        variables(&[("GCE_METADATA_HOST", "127.0.0.1:1".into())]),
    ));
    let before = server.count();
    assert!(sent(&refused, &server).await.is_err());
    assert_eq!(server.count(), before, "nothing is sent without its token");
    assert_eq!(StatusCode::OK, 200);
}
