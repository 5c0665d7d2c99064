// Command mongod stands in for MongoDB's server in tests: FerretDB over a PostgreSQL of its own, in one container.
//
// It takes the flags and variables of MongoDB's image that the tests use. It is no MongoDB: conditional updates are
// not atomic, ranges scan, and users sign in by the PLAIN mechanism.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/FerretDB/FerretDB/ferretdb"
)

const (
	programs = "/usr/lib/postgresql/15/bin/"
	sockets  = "/tmp"
	database = "ferretdb"
)

type options struct {
	data, bind, tlsMode, certificate, authority string
	port                                        int
	user, password                              string
}

func parse() options {
	var o options
	flag.StringVar(&o.data, "dbpath", "/data/db", "folder of the data")
	flag.StringVar(&o.bind, "bind_ip", "0.0.0.0", "address to listen on")
	flag.IntVar(&o.port, "port", 27017, "port; with preferTLS the next one is encrypted")
	flag.StringVar(&o.tlsMode, "tlsMode", "disabled", "disabled, preferTLS or requireTLS")
	flag.StringVar(&o.certificate, "tlsCertificateKeyFile", "", "PEM file with certificate and key")
	flag.StringVar(&o.authority, "tlsCAFile", "", "PEM file; with it clients need certificates")
	o.user, o.password = os.Getenv("MONGO_INITDB_ROOT_USERNAME"), os.Getenv("MONGO_INITDB_ROOT_PASSWORD")
	arguments := os.Args[1:]
	if len(arguments) > 0 && arguments[0] == "mongod" {
		arguments = arguments[1:]
	}
	_ = flag.CommandLine.Parse(arguments)
	return o
}

// create makes the cluster once. A half-made one has no marker and is made again.
func create(o options) error {
	folder, marker := filepath.Join(o.data, "postgresql"), filepath.Join(o.data, "created")
	if _, err := os.Stat(marker); err == nil {
		return nil
	}
	if err := os.RemoveAll(folder); err != nil {
		return err
	}
	arguments := []string{"-D", folder, "-E", "UTF8", "--locale=C.UTF-8", "-U", superuser(o)}
	if o.user == "" {
		arguments = append(arguments, "-A", "trust")
	} else {
		secret := filepath.Join(o.data, "password")
		if err := os.WriteFile(secret, []byte(o.password+"\n"), 0o600); err != nil {
			return err
		}
		defer os.Remove(secret)
		arguments = append(arguments, "-A", "scram-sha-256", "--pwfile", secret)
	}
	if err := run(programs+"initdb", arguments...); err != nil {
		return err
	}
	if err := single(folder, "postgres", "CREATE DATABASE "+database+";"); err != nil {
		return err
	}
	if err := single(folder, database, keyIndexes...); err != nil {
		return err
	}
	return os.WriteFile(marker, nil, 0o600)
}

// keyIndexes give every collection what MongoDB has by itself and FerretDB lacks: an index that serves `_id = ...`.
var keyIndexes = []string{`
CREATE FUNCTION key_index() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE made record;
BEGIN
  FOR made IN SELECT objid, object_identity FROM pg_event_trigger_ddl_commands() WHERE command_tag = 'CREATE TABLE' LOOP
    IF EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = made.objid AND attname = '_jsonb')
        AND made.object_identity NOT LIKE '%\_ferretdb\_%' THEN
      EXECUTE format('CREATE INDEX ON %s USING gin ((_jsonb->''_id'') jsonb_path_ops) WITH (fastupdate=off)',
        made.object_identity);
    END IF;
  END LOOP;
END $$;`, `
CREATE EVENT TRIGGER key_index ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION key_index();`}

// single runs statements while no server runs. With -j a statement ends at a semicolon before an empty line.
func single(folder, database string, statements ...string) error {
	server := exec.Command(programs+"postgres", "--single", "-j", "-D", folder, database)
	server.Stdin = strings.NewReader(strings.Join(statements, "\n\n") + "\n\n")
	output, err := server.CombinedOutput()
	if err == nil && strings.Contains(string(output), "ERROR:") {
		err = errors.New("a statement failed")
	}
	if err != nil {
		return fmt.Errorf("%s in %s: %w: %s", statements, database, err, output)
	}
	return nil
}

func superuser(o options) string {
	if o.user == "" {
		return "postgres"
	}
	return o.user
}

func run(program string, arguments ...string) error {
	if output, err := exec.Command(program, arguments...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(program), err, output)
	}
	return nil
}

// forget removes what a killed server left as signs of life: in a container its process number is soon another's.
func forget(o options) error {
	for _, file := range []string{filepath.Join(o.data, "postgresql", "postmaster.pid"), sockets + "/.s.PGSQL.5432.lock"} {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// serve starts PostgreSQL on a Unix socket only; it logs warnings and worse. Nothing else of this container serves
// the folder, and no other container may.
func serve(o options) (*exec.Cmd, error) {
	if err := forget(o); err != nil {
		return nil, err
	}
	server := exec.Command(programs+"postgres", "-D", filepath.Join(o.data, "postgresql"),
		"-c", "listen_addresses=", "-c", "unix_socket_directories="+sockets, "-c", "max_connections=300")
	server.Stdout, server.Stderr = os.Stdout, os.Stderr
	// A signal for the group must not reach it before FerretDB has let go.
	server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := server.Start(); err != nil {
		return nil, err
	}
	for range 600 {
		if run(programs+"pg_isready", "-q", "-h", sockets) == nil {
			return server, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil, errors.New("postgres: not ready after 30 s")
}

func listener(o options) (ferretdb.ListenerConfig, error) {
	plain, next := fmt.Sprintf("%s:%d", o.bind, o.port), fmt.Sprintf("%s:%d", o.bind, o.port+1)
	l := ferretdb.ListenerConfig{TLSCertFile: o.certificate, TLSKeyFile: o.certificate, TLSCAFile: o.authority}
	switch o.tlsMode {
	case "disabled":
		return ferretdb.ListenerConfig{TCP: plain}, nil
	case "preferTLS", "allowTLS":
		l.TCP, l.TLS = plain, next
	case "requireTLS":
		l.TLS = plain
	default:
		return l, fmt.Errorf("--tlsMode %q is none of disabled, allowTLS, preferTLS, requireTLS", o.tlsMode)
	}
	return l, nil
}

func start(ctx context.Context, o options) error {
	if err := create(o); err != nil {
		return err
	}
	server, err := serve(o)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	defer func() {
		_ = server.Process.Signal(syscall.SIGINT)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = server.Process.Kill()
		}
	}()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		err := <-ended
		ended <- err
		cancel(fmt.Errorf("postgres ended: %w", errors.Join(err, errors.New("unexpectedly"))))
	}()
	listen, err := listener(o)
	if err != nil {
		return err
	}
	query := url.Values{"host": {sockets}, "pool_max_conns": {"50"}}
	address := url.URL{Scheme: "postgres", Path: "/" + database, RawQuery: query.Encode()}
	if o.user == "" {
		address.User = url.User(superuser(o))
	}
	ferret, err := ferretdb.New(&ferretdb.Config{
		Listener: listen, Handler: "postgresql", PostgreSQLURL: address.String(),
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	log.Print("Waiting for connections")
	if err := ferret.Run(ctx); err != nil {
		return err
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := start(ctx, parse()); err != nil {
		log.Fatal(err)
	}
}
