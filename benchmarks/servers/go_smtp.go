// go-smtp, in the version that Debian packages.
package main

import (
	"crypto/tls"
	"io"
	"io/ioutil"
	"log"
	"net"
	"os"

	"github.com/emersion/go-smtp"
)

type backend struct{}

func (backend) Login(*smtp.ConnectionState, string, string) (smtp.Session, error) {
	return session{}, nil
}

func (backend) AnonymousLogin(*smtp.ConnectionState) (smtp.Session, error) {
	return session{}, nil
}

type session struct{}

func (session) Reset() {}

func (session) Logout() error { return nil }

func (session) Mail(string, smtp.MailOptions) error { return nil }

func (session) Rcpt(string) error { return nil }

func (session) Data(reader io.Reader) error {
	_, err := io.Copy(ioutil.Discard, reader)
	return err
}

func main() {
	port, mode, folder := os.Args[1], os.Args[2], os.Args[3]
	certificate, err := tls.LoadX509KeyPair(folder+"/cert.pem", folder+"/key.pem")
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		log.Fatal(err)
	}
	server := smtp.NewServer(backend{})
	server.Domain = "mx.example"
	server.LMTP = mode == "lmtp"
	server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}}
	server.AllowInsecureAuth = true
	server.MaxMessageBytes = 1 << 25
	server.ErrorLog = log.New(ioutil.Discard, "", 0)
	log.Fatal(server.Serve(listener))
}
