// Carries one packed message from the server to the other components on the page. It shows nothing.

const published = new WeakMap();

export default function ({ data, parentElement }) {
  const message = unpack(data);
  published.set(parentElement, message);
  publish(message.channel, message);
  return () => {
    const { channel, digest } = published.get(parentElement);
    withdraw(channel, digest);
  };
}
