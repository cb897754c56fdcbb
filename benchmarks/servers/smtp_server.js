// smtp-server on Node.

'use strict';

const fs = require('fs');
const { SMTPServer } = require('smtp-server');

const [port, mode, folder] = process.argv.slice(2);

const server = new SMTPServer({
    name: 'mx.example',
    lmtp: mode === 'lmtp',
    key: fs.readFileSync(`${folder}/key.pem`),
    cert: fs.readFileSync(`${folder}/cert.pem`),
    authOptional: true,
    disableReverseLookup: true,
    size: 1 << 25,
    socketTimeout: 600000,
    logger: false,
    onAuth(auth, session, callback) {
        callback(null, { user: auth.username });
    },
    onRcptTo(address, session, callback) {
        callback();
    },
    onData(stream, session, callback) {
        stream.on('data', () => {});
        stream.on('end', callback);
    }
});

// Errors of a connection must not end the server.
server.on('error', () => {});
server.listen(Number(port), '127.0.0.1', 4096);
