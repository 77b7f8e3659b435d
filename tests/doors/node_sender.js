// Sends one message with the npm package web-push: a JSON object on stdin, {statusCode, body} on stdout.
const webpush = require("web-push");

let text = "";
process.stdin.on("data", (part) => (text += part));
process.stdin.on("end", async () => {
  const ask = JSON.parse(text);
  const options = {
    TTL: 60,
    contentEncoding: ask.subscription.encoding || "aes128gcm",
    vapidDetails: { subject: "mailto:ops@example.com", publicKey: ask.publicKey, privateKey: ask.privateKey },
  };
  let answer;
  try {
    answer = await webpush.sendNotification(ask.subscription, ask.payload, options);
  } catch (error) {
    answer = error;
  }
  console.log(JSON.stringify({ statusCode: answer.statusCode, body: answer.body }));
});
