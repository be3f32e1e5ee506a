//! Who may do what over the management API: every route, every method, every role.

use super::support::{Api, Broker, Declare, Peer};
use serde_json::json;

/// What each asker gets for a request: without a tag, and with `management`, `policymaker`, `monitoring` and `administrator`.
/// `v` is a virtual host that all of them may enter, `w` one that nobody but `guest` may. `-` has no body, `{}` an empty
/// object. Who is nobody, or has the wrong password, gets 401 everywhere but where the first column says otherwise.
#[rustfmt::skip]
const MATRIX: &[(&str, &str, &str, [u16; 5])] = &[
    // Whoever asks.
    ("GET",    "/auth",                                 "-",  [200, 200, 200, 200, 200]),
    ("GET",    "/whoami",                               "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/openapi.json",                         "-",  [200, 200, 200, 200, 200]),
    ("GET",    "/version",                              "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/overview",                             "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/cluster-name",                         "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/vhosts",                               "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/connections",                          "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/channels",                             "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/consumers",                            "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/consumers/v",                          "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/consumers/w",                          "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/consumers/nowhere",                    "-",  [401, 404, 404, 404, 404]),
    ("GET",    "/users/guest/queues",                   "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/users/nobody/queues",                  "-",  [401, 200, 200, 200, 200]),
    ("PUT",    "/cluster-name",                         "{}", [401, 401, 401, 401, 400]),
    ("GET",    "/extensions",                           "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/feature-flags",                        "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/deprecated-features",                  "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/deprecated-features/used",             "-",  [401, 200, 200, 200, 200]),
    // Load balancers and the like.
    ("GET",    "/health/checks/is-in-service",               "-", [200, 200, 200, 200, 200]),
    ("GET",    "/health/checks/ready-to-serve-clients",      "-", [200, 200, 200, 200, 200]),
    ("GET",    "/health/checks/below-node-connection-limit", "-", [200, 200, 200, 200, 200]),
    ("GET",    "/health/checks/reached-target-cluster-size", "-", [200, 200, 200, 200, 200]),
    ("GET",    "/health/checks/alarms",                      "-", [401, 200, 200, 200, 200]),
    ("GET",    "/health/checks/local-alarms",                "-", [401, 200, 200, 200, 200]),
    ("GET",    "/health/checks/virtual-hosts",               "-", [401, 200, 200, 200, 200]),
    ("GET",    "/health/checks/metadata-store/initialized",  "-", [401, 200, 200, 200, 200]),
    ("GET",    "/health/checks/metadata-store/initialized/with-data", "-", [401, 200, 200, 200, 200]),
    ("GET",    "/health/checks/port-listener/x",             "-", [401, 400, 400, 400, 400]),
    ("GET",    "/health/checks/protocol-listener/amqp",      "-", [401, 200, 200, 200, 200]),
    ("GET",    "/health/checks/certificate-expiration/1/x",  "-", [401, 400, 400, 400, 400]),
    ("GET",    "/health/checks/node-is-quorum-critical",     "-", [401, 200, 200, 200, 200]),
    ("GET",    "/health/checks/quorum-queues-without-elected-leaders/all-vhosts",           "-", [401, 200, 200, 200, 200]),
    ("GET",    "/health/checks/quorum-queues-without-elected-leaders/all-vhosts/pattern/x", "-", [401, 200, 200, 200, 200]),
    ("GET",    "/health/checks/quorum-queues-without-elected-leaders/vhost/w",              "-", [401, 200, 200, 200, 200]),
    ("GET",    "/health/checks/quorum-queues-without-elected-leaders/vhost/w/pattern/x",    "-", [401, 200, 200, 200, 200]),
    ("GET",    "/healthchecks/node",                    "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/healthchecks/node/none",               "-",  [401, 404, 404, 404, 404]),
    // Who may enter the virtual host.
    ("GET",    "/aliveness-test/v",                     "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/aliveness-test/w",                     "-",  [401, 404, 404, 404, 200]),
    ("GET",    "/queues",                               "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/queues/detailed",                      "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/queues/v",                             "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/queues/w",                             "-",  [401, 404, 404, 404, 200]),
    ("GET",    "/queues/nowhere",                       "-",  [401, 404, 404, 404, 404]),
    ("GET",    "/queues/v/q",                           "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/queues/v/none",                        "-",  [401, 404, 404, 404, 404]),
    ("GET",    "/queues/w/none",                        "-",  [401, 404, 404, 404, 404]),
    ("POST",   "/queues/v/q/peek",                      "{}", [401, 200, 200, 200, 200]),
    ("POST",   "/queues/w/q/peek",                      "{}", [401, 404, 404, 404, 401]),
    ("POST",   "/queues/v/q/redrive",                   "{}", [401, 200, 200, 200, 200]),
    ("POST",   "/queues/v/none/redrive",                "{}", [401, 404, 404, 404, 404]),
    ("POST",   "/route/v/amq.topic",                    "{}", [401, 200, 200, 200, 200]),
    ("POST",   "/route/w/amq.topic",                    "{}", [401, 404, 404, 404, 200]),
    ("GET",    "/queues/v/q/bindings",                  "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/queues/w/q/bindings",                  "-",  [401, 404, 404, 404, 200]),
    ("GET",    "/exchanges",                            "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/exchanges/v",                          "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/exchanges/w",                          "-",  [401, 404, 404, 404, 200]),
    ("GET",    "/exchanges/v/amq.topic",                "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/exchanges/v/amq.default",              "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/exchanges/v/none",                     "-",  [401, 404, 404, 404, 404]),
    ("GET",    "/exchanges/v/amq.topic/bindings/source",      "-", [401, 200, 200, 200, 200]),
    ("GET",    "/exchanges/v/amq.topic/bindings/destination", "-", [401, 200, 200, 200, 200]),
    ("GET",    "/bindings",                             "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/bindings/v",                           "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/bindings/w",                           "-",  [401, 404, 404, 404, 200]),
    ("GET",    "/bindings/v/e/amq.topic/q/q",           "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/bindings/v/e/amq.topic/x/q",           "-",  [401, 404, 404, 404, 404]),
    ("PUT",    "/queues/v/q",                           "{}", [401, 400, 400, 400, 400]),
    ("PUT",    "/queues/w/q",                           "{}", [401, 404, 404, 404, 401]),
    ("PUT",    "/queues/nowhere/q",                     "{}", [401, 404, 404, 404, 404]),
    ("DELETE", "/queues/v/none",                        "-",  [401, 404, 404, 404, 404]),
    ("GET",    "/queues/v/q/unacked",                   "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/queues/w/q/unacked",                   "-",  [401, 404, 404, 404, 404]),
    ("DELETE", "/queues/v/q/contents",                  "-",  [401, 204, 204, 204, 204]),
    ("DELETE", "/queues/v/none/contents",               "-",  [401, 404, 404, 404, 404]),
    ("POST",   "/queues/v/q/get",                       "{}", [401, 400, 400, 400, 400]),
    ("POST",   "/queues/v/none/get",                    "{}", [401, 404, 404, 404, 404]),
    ("POST",   "/queues/w/none/get",                    "{}", [401, 404, 404, 404, 404]),
    ("PUT",    "/exchanges/v/amq.topic",                "{}", [401, 400, 400, 400, 400]),
    ("PUT",    "/exchanges/w/x",                        "{}", [401, 404, 404, 404, 401]),
    ("DELETE", "/exchanges/v/amq.topic",                "-",  [401, 401, 401, 401, 401]),
    ("DELETE", "/exchanges/v/none",                     "-",  [401, 404, 404, 404, 404]),
    ("POST",   "/exchanges/v/amq.topic/publish",        "{}", [401, 400, 400, 400, 400]),
    ("POST",   "/exchanges/v/none/publish",             "{}", [401, 404, 404, 404, 404]),
    ("POST",   "/exchanges/w/amq.topic/publish",        "{}", [401, 404, 404, 404, 400]),
    ("POST",   "/bindings/v/e/amq.topic/q/none",        "{}", [401, 404, 404, 404, 404]),
    ("POST",   "/bindings/v/e/amq.topic/x/q",           "{}", [401, 404, 404, 404, 404]),
    ("POST",   "/bindings/w/e/amq.topic/q/q",           "{}", [401, 404, 404, 404, 401]),
    ("GET",    "/bindings/v/e/amq.default/q/q/q",       "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/bindings/v/e/amq.topic/q/q/none",      "-",  [401, 404, 404, 404, 404]),
    ("DELETE", "/bindings/v/e/amq.default/q/q/q",       "-",  [401, 401, 401, 401, 401]),
    ("DELETE", "/bindings/v/e/amq.topic/q/q/none",      "-",  [401, 404, 404, 404, 404]),
    ("GET",    "/vhosts/v/channels",                    "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/vhosts/w/channels",                    "-",  [401, 404, 404, 404, 200]),
    ("GET",    "/vhosts/v/connections",                 "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/vhosts/w/connections",                 "-",  [401, 404, 404, 404, 200]),
    ("GET",    "/policies",                             "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/policies/v",                           "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/policies/w",                           "-",  [401, 404, 404, 404, 200]),
    ("GET",    "/operator-policies",                    "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/operator-policies/v",                  "-",  [401, 200, 200, 200, 200]),
    // The same, and who monitors sees all.
    ("GET",    "/vhost-limits",                         "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/vhost-limits/v",                       "-",  [401, 200, 200, 200, 200]),
    ("GET",    "/vhost-limits/w",                       "-",  [401, 404, 404, 200, 200]),
    // Who makes policies.
    ("GET",    "/policies/v/p",                         "-",  [401, 401, 200, 401, 200]),
    ("PUT",    "/policies/v/p2",                        "{}", [401, 401, 400, 401, 400]),
    ("PUT",    "/policies/w/p2",                        "{}", [401, 401, 404, 401, 400]),
    ("PUT",    "/policies/nowhere/p2",                  "{}", [401, 401, 404, 401, 404]),
    ("DELETE", "/policies/v/none",                      "-",  [401, 401, 404, 401, 404]),
    ("GET",    "/parameters",                           "-",  [401, 401, 200, 401, 200]),
    ("GET",    "/parameters/shovel",                    "-",  [401, 401, 200, 401, 200]),
    ("GET",    "/parameters/shovel/v",                  "-",  [401, 401, 200, 401, 200]),
    ("GET",    "/parameters/shovel/w",                  "-",  [401, 401, 404, 401, 200]),
    ("GET",    "/parameters/shovel/v/none",             "-",  [401, 401, 404, 401, 404]),
    ("PUT",    "/parameters/shovel/v/s",                "{}", [401, 401, 400, 401, 400]),
    ("PUT",    "/parameters/bogus/v/s",                 "{}", [401, 401, 400, 401, 400]),
    ("DELETE", "/parameters/bogus/v/s",                 "-",  [401, 401, 404, 401, 404]),
    ("GET",    "/global-parameters",                    "-",  [401, 401, 200, 401, 200]),
    ("GET",    "/global-parameters/none",               "-",  [401, 401, 404, 401, 404]),
    ("PUT",    "/global-parameters/none",               "{}", [401, 401, 400, 401, 400]),
    ("DELETE", "/global-parameters/none",               "-",  [401, 401, 404, 401, 404]),
    // Who monitors.
    ("GET",    "/nodes",                                "-",  [401, 401, 401, 200, 200]),
    ("GET",    "/nodes/none",                           "-",  [401, 401, 401, 404, 404]),
    ("GET",    "/nodes/none/memory",                    "-",  [401, 401, 401, 404, 404]),
    ("GET",    "/nodes/none/memory/ets",                "-",  [401, 401, 401, 404, 404]),
    ("GET",    "/nodes/none/memory/ets/all",            "-",  [401, 401, 401, 404, 404]),
    ("GET",    "/nodes/none/memory/ets/all/relative",   "-",  [401, 401, 401, 404, 404]),
    ("GET",    "/nodes/none/memory/relative",           "-",  [401, 401, 401, 404, 404]),
    ("GET",    "/auth/attempts/none",                   "-",  [401, 401, 401, 404, 404]),
    ("DELETE", "/auth/attempts/none",                   "-",  [401, 401, 401, 401, 404]),
    ("GET",    "/auth/attempts/none/source",            "-",  [401, 401, 401, 404, 404]),
    ("DELETE", "/auth/attempts/none/source",            "-",  [401, 401, 401, 401, 404]),
    // Whose it is; who monitors may look.
    ("GET",    "/connections/none",                     "-",  [401, 404, 404, 404, 404]),
    ("DELETE", "/connections/none",                     "-",  [401, 404, 404, 404, 404]),
    ("GET",    "/connections/none/channels",            "-",  [401, 404, 404, 404, 404]),
    ("GET",    "/connections/none/sessions",            "-",  [401, 404, 404, 404, 404]),
    ("GET",    "/channels/none",                        "-",  [401, 404, 404, 404, 404]),
    ("GET",    "/connections/username/guest",           "-",  [401, 401, 401, 200, 200]),
    ("DELETE", "/connections/username/nobody",          "-",  [401, 401, 401, 401, 204]),
    ("GET",    "/user-limits/guest",                    "-",  [401, 401, 401, 200, 200]),
    ("GET",    "/user-limits/management",               "-",  [401, 200, 401, 200, 200]),
    ("GET",    "/user-limits/nobody",                   "-",  [401, 401, 401, 404, 404]),
    // Administrators.
    ("GET",    "/operator-policies/v/p",                "-",  [401, 401, 401, 401, 404]),
    ("PUT",    "/operator-policies/v/p",                "{}", [401, 401, 401, 401, 400]),
    ("DELETE", "/operator-policies/v/p",                "-",  [401, 401, 401, 401, 404]),
    ("PUT",    "/feature-flags/none/enable",            "{}", [401, 401, 401, 401, 400]),
    ("DELETE", "/reset",                                "-",  [401, 401, 401, 401, 204]),
    ("DELETE", "/reset/none",                           "-",  [401, 401, 401, 401, 404]),
    ("POST",   "/rebalance/queues",                     "{}", [401, 401, 401, 401, 204]),
    ("GET",    "/auth/hash_password/x",                 "-",  [401, 401, 401, 401, 200]),
    ("POST",   "/queues/v/q/actions",                   "{}", [401, 401, 401, 401, 400]),
    ("POST",   "/queues/v/none/actions",                "{}", [401, 401, 401, 401, 404]),
    ("POST",   "/reload",                               "-",  [401, 401, 401, 401, 200]),
    ("GET",    "/environment",                          "-",  [401, 401, 401, 401, 200]),
    ("PUT",    "/log-level",                            "{}", [401, 401, 401, 401, 400]),
    ("PUT",    "/watermarks/memory",                    "{}", [401, 401, 401, 401, 400]),
    ("GET",    "/definitions",                          "-",  [401, 401, 401, 401, 200]),
    ("GET",    "/all-configuration",                    "-",  [401, 401, 401, 401, 200]),
    ("GET",    "/definitions/v",                        "-",  [401, 401, 401, 401, 200]),
    ("GET",    "/definitions/nowhere",                  "-",  [401, 401, 401, 401, 400]),
    ("POST",   "/definitions",                          "{}", [401, 401, 401, 401, 204]),
    ("PUT",    "/definitions",                          "{}", [401, 401, 401, 401, 204]),
    ("POST",   "/all-configuration",                    "{}", [401, 401, 401, 401, 204]),
    ("PUT",    "/all-configuration",                    "{}", [401, 401, 401, 401, 204]),
    ("POST",   "/definitions/v",                        "{}", [401, 401, 401, 401, 204]),
    ("PUT",    "/definitions/v",                        "{}", [401, 401, 401, 401, 204]),
    ("POST",   "/definitions/nowhere",                  "{}", [401, 401, 401, 401, 404]),
    ("GET",    "/users",                                "-",  [401, 401, 401, 401, 200]),
    ("GET",    "/users/without-permissions",            "-",  [401, 401, 401, 401, 200]),
    ("POST",   "/users/bulk-delete",                    "{}", [401, 401, 401, 401, 400]),
    ("GET",    "/users/guest",                          "-",  [401, 401, 401, 401, 200]),
    ("GET",    "/users/nobody",                         "-",  [401, 401, 401, 401, 404]),
    ("PUT",    "/users/nobody",                         "{}", [401, 401, 401, 401, 400]),
    ("DELETE", "/users/nobody",                         "-",  [401, 401, 401, 401, 404]),
    ("GET",    "/users/guest/permissions",              "-",  [401, 401, 401, 401, 200]),
    ("GET",    "/users/nobody/permissions",             "-",  [401, 401, 401, 401, 404]),
    ("GET",    "/users/guest/topic-permissions",        "-",  [401, 401, 401, 401, 200]),
    ("GET",    "/users/nobody/topic-permissions",       "-",  [401, 401, 401, 401, 404]),
    ("GET",    "/permissions",                          "-",  [401, 401, 401, 401, 200]),
    ("GET",    "/permissions/v/management",             "-",  [401, 401, 401, 401, 200]),
    ("GET",    "/permissions/v/nobody",                 "-",  [401, 401, 401, 401, 404]),
    ("PUT",    "/permissions/v/nobody",                 "{}", [401, 401, 401, 401, 400]),
    ("PUT",    "/permissions/nowhere/guest",            "{}", [401, 401, 401, 401, 400]),
    ("DELETE", "/permissions/v/nobody",                 "-",  [401, 401, 401, 401, 404]),
    ("GET",    "/topic-permissions",                    "-",  [401, 401, 401, 401, 200]),
    ("GET",    "/topic-permissions/v/management",       "-",  [401, 401, 401, 401, 404]),
    ("PUT",    "/topic-permissions/v/management",       "{}", [401, 401, 401, 401, 400]),
    ("DELETE", "/topic-permissions/v/management",       "-",  [401, 401, 401, 401, 404]),
    ("GET",    "/topic-permissions/v/management/x",     "-",  [401, 401, 401, 401, 404]),
    ("PUT",    "/topic-permissions/v/management/x",     "{}", [401, 401, 401, 401, 400]),
    ("DELETE", "/topic-permissions/v/management/x",     "-",  [401, 401, 401, 401, 404]),
    ("GET",    "/vhosts/v",                             "-",  [401, 401, 401, 401, 200]),
    ("GET",    "/vhosts/nowhere",                       "-",  [401, 401, 401, 401, 404]),
    ("PUT",    "/vhosts/v",                             "{}", [401, 401, 401, 401, 204]),
    ("DELETE", "/vhosts/nowhere",                       "-",  [401, 401, 401, 401, 404]),
    ("POST",   "/vhosts/nowhere/deletion/protection",   "-",  [401, 401, 401, 401, 404]),
    ("DELETE", "/vhosts/nowhere/deletion/protection",   "-",  [401, 401, 401, 401, 404]),
    ("POST",   "/vhosts/v/start/nowhere",               "-",  [401, 401, 401, 401, 400]),
    ("POST",   "/vhosts/nowhere/start/nowhere",         "-",  [401, 401, 401, 401, 404]),
    ("GET",    "/vhosts/v/permissions",                 "-",  [401, 401, 401, 401, 200]),
    ("GET",    "/vhosts/nowhere/permissions",           "-",  [401, 401, 401, 401, 404]),
    ("GET",    "/vhosts/v/topic-permissions",           "-",  [401, 401, 401, 401, 200]),
    ("GET",    "/vhosts/nowhere/topic-permissions",     "-",  [401, 401, 401, 401, 404]),
    ("PUT",    "/vhost-limits/v/max-queues",            "{}", [401, 401, 401, 401, 400]),
    ("DELETE", "/vhost-limits/nowhere/max-queues",      "-",  [401, 401, 401, 401, 404]),
    ("GET",    "/user-limits",                          "-",  [401, 401, 401, 401, 200]),
    ("PUT",    "/user-limits/guest/max-channels",       "{}", [401, 401, 401, 401, 400]),
    ("DELETE", "/user-limits/nobody/max-channels",      "-",  [401, 401, 401, 401, 404]),
    // The last: nothing can be asked afterwards.
    ("POST",   "/stop",                                 "-",  [401, 401, 401, 401, 204]),
];

const ROLES: [&str; 5] = ["", "management", "policymaker", "monitoring", "administrator"];

/// A broker with a user for each role, whose name and password are the tag, or `plain`.
fn broker_with_roles() -> Broker {
    // The matrix has many wrong passwords, none of which is to bar or delay the others.
    let broker = Broker::with(&["--http-port=0", "--login-failures-max=infinity", "--login-delay=0"]);
    let api = Api::of(&broker);
    let everything = json!({"configure": ".*", "write": ".*", "read": ".*"});
    for vhost in ["v", "w"] {
        assert_eq!(api.put(&format!("/api/vhosts/{vhost}"), json!({})).status, 201);
    }
    for role in ROLES {
        let name = if role.is_empty() { "plain" } else { role };
        assert_eq!(api.put(&format!("/api/users/{name}"), json!({"password": name, "tags": role})).status, 201);
        assert_eq!(api.put(&format!("/api/permissions/v/{name}"), everything.clone()).status, 201);
    }
    let policy = json!({"pattern": "^none$", "definition": {"max-length": 1}});
    assert_eq!(api.put("/api/policies/v/p", policy).status, 201);
    let mut peer = Peer::open_as(&broker, "plain", "v");
    peer.declare(1, Declare::durable("q"));
    peer.close();
    broker
}

#[test]
fn every_route_answers_each_role_as_the_matrix_says() {
    let broker = broker_with_roles();
    let api = Api::of(&broker);
    let mut wrong = Vec::new();
    for (method, path, body, expected) in MATRIX {
        let is_public = expected[0] != 401;
        let full = format!("/api{path}");
        let body = if *body == "-" { "" } else { *body };
        let mut check = |who: &str, api: Api<'_>, expected: u16| {
            let reply = api.call(method, &full, &[], body.as_bytes());
            if reply.status != expected {
                wrong.push(format!("{method} {path} by '{who}': {} instead of {expected}", reply.status));
            }
            // Whatever is said is said in JSON.
            if !reply.body.is_empty() {
                reply.json();
            }
        };
        let refused = if is_public { expected[0] } else { 401 };
        check("nobody", api.by_nobody(), refused);
        check("wrong password", api.by("administrator", "wrong"), refused);
        check("blank password", api.by("administrator", ""), refused);
        for (role, expected) in ROLES.iter().zip(expected) {
            let name = if role.is_empty() { "plain" } else { role };
            check(role, api.by(name, name), *expected);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_matrix_has_every_route_and_what_a_route_has_not_is_refused() {
    let broker = Broker::with(&["--http-port", "0"]);
    let api = Api::of(&broker);
    let mut missing = Vec::new();
    for (path, methods) in leveret::http::table() {
        let parts: Vec<_> = path.split('/').collect();
        let is_meant = |found: &str| {
            let found: Vec<_> = found.split('/').collect();
            let same = |(part, found): (&&str, &&str)| part.starts_with('{') || part == found;
            found.len() == parts.len() && parts.iter().zip(&found).all(same)
        };
        for method in ["GET", "PUT", "POST", "DELETE", "PATCH"] {
            if methods.iter().any(|known| known == method) {
                if !MATRIX.iter().any(|(known, found, ..)| *known == method && is_meant(found)) {
                    missing.push(format!("{method} {path}"));
                }
                continue;
            }
            let filled: Vec<_> = parts.iter().map(|part| if part.starts_with('{') { "x" } else { part }).collect();
            let reply = api.by_nobody().call(method, &format!("/api{}", filled.join("/")), &[], b"");
            assert_eq!((reply.status, reply.header("allow")), (405, Some(&*methods.join(", "))), "{method} {path}");
        }
    }
    assert!(missing.is_empty(), "not in the matrix: {missing:?}");
}
