import com.google.gson.Gson;
import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.netty.shaded.io.grpc.netty.GrpcSslContexts;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import java.io.ByteArrayInputStream;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/** A stock grpc-java client against an edge. It prints a line of JSON for each case, as tests/clients/plan.py says. */
public final class Client {
  static final class Plan {
    String address;
    String authority;
    String roots;
    List<String> tokens;
    String bulky;
    String delta;
    String status;
    String messages;
    double within;
    List<String> omit;

    byte[] message(String name) throws IOException {
      return Files.readAllBytes(Path.of(messages, name));
    }

    String token(int number) {
      return tokens.get(number % tokens.size());
    }

    long milliseconds() {
      return (long) (within * 1000);
    }
  }

  record Row(String case_, boolean passed, String detail) {
    String json() {
      var fields = new LinkedHashMap<String, Object>();
      fields.put("case", case_);
      fields.put("passed", passed);
      fields.put("detail", detail);
      return new Gson().toJson(fields);
    }
  }

  interface Case {
    void run(Plan plan) throws Exception;
  }

  interface OnCall {
    void run(Plan plan, ManagedChannel channel, Call call) throws Exception;
  }

  static final class Wrong extends Exception {
    Wrong(String what) {
      super(what);
    }
  }

  static final MethodDescriptor.Marshaller<byte[]> BYTES =
      new MethodDescriptor.Marshaller<>() {
        @Override
        public InputStream stream(byte[] value) {
          return new ByteArrayInputStream(value);
        }

        @Override
        public byte[] parse(InputStream stream) {
          try {
            return stream.readAllBytes();
          } catch (IOException error) {
            throw new IllegalStateException(error);
          }
        }
      };

  /** A call of streams: its messages in a queue, its status at the end. */
  static final class Call extends ClientCall.Listener<byte[]> {
    final BlockingQueue<byte[]> arrived = new LinkedBlockingQueue<>();
    final CompletableFuture<Status> over = new CompletableFuture<>();
    final ClientCall<byte[], byte[]> call;
    final long patience;

    Call(Plan plan, ManagedChannel channel, String path, String token, CallOptions options, int more) {
      var method =
          MethodDescriptor.<byte[], byte[]>newBuilder(BYTES, BYTES)
              .setType(MethodDescriptor.MethodType.BIDI_STREAMING)
              .setFullMethodName(path.substring(1))
              .build();
      var headers = new Metadata();
      if (!token.isEmpty()) {
        headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + token);
      }
      for (int number = 0; number < more; number++) {
        headers.put(Metadata.Key.of("x-" + number, Metadata.ASCII_STRING_MARSHALLER), "v".repeat(1000));
      }
      patience = plan.milliseconds();
      if (options.getDeadline() == null) {
        options = options.withDeadlineAfter(2 * patience, TimeUnit.MILLISECONDS);
      }
      call = channel.newCall(method, options);
      call.start(this, headers);
      call.request(Integer.MAX_VALUE);
    }

    Call(Plan plan, ManagedChannel channel, String token) {
      this(plan, channel, plan.delta, token, CallOptions.DEFAULT, 0);
    }

    @Override
    public void onMessage(byte[] message) {
      arrived.add(message);
    }

    @Override
    public void onClose(Status status, Metadata trailers) {
      over.complete(status);
      arrived.add(new byte[0]);
    }

    byte[] ask(byte[] message) throws Exception {
      call.sendMessage(message);
      return answer();
    }

    byte[] answer() throws Exception {
      byte[] answer = arrived.poll(patience, TimeUnit.MILLISECONDS);
      if (answer == null) {
        throw new Wrong("no answer");
      }
      if (answer.length == 0) {
        throw new Wrong("the call ended with " + over.get());
      }
      return answer;
    }

    Status status() throws Exception {
      try {
        return over.get(patience, TimeUnit.MILLISECONDS);
      } catch (TimeoutException error) {
        throw new Wrong("the call does not end");
      }
    }

    void lives() throws Exception {
      call.halfClose();
      expect(status(), Status.Code.OK);
    }
  }

  static void expect(Status status, Status.Code code) throws Wrong {
    if (status.getCode() != code) {
      throw new Wrong(status + " instead of " + code);
    }
  }

  static NettyChannelBuilder connect(Plan plan) throws IOException {
    var context = GrpcSslContexts.forClient().trustManager(new File(plan.roots)).build();
    int colon = plan.address.lastIndexOf(':');
    return NettyChannelBuilder.forAddress(
            plan.address.substring(0, colon), Integer.parseInt(plan.address.substring(colon + 1)))
        .overrideAuthority(plan.authority)
        .sslContext(context)
        .maxInboundMessageSize(64 << 20);
  }

  static Status shortCall(Plan plan, ManagedChannel channel, String token, int more) throws Exception {
    return opened(plan, channel, token, more).status();
  }

  static Call opened(Plan plan, ManagedChannel channel, String token, int more) throws IOException {
    var call = new Call(plan, channel, plan.status, token, CallOptions.DEFAULT, more);
    call.call.sendMessage(plan.message("status"));
    call.call.halfClose();
    return call;
  }

  static Case together(int count, String name) {
    return plan -> {
      var channel = connect(plan).build();
      try {
        byte[] first = plan.message(name);
        var calls = new ArrayList<Call>();
        for (int number = 0; number < count; number++) {
          var call = new Call(plan, channel, plan.token(number));
          call.call.sendMessage(first);
          calls.add(call);
        }
        int answered = 0;
        String lost = "";
        for (var call : calls) {
          try {
            call.answer();
            answered++;
          } catch (Wrong wrong) {
            lost = wrong.getMessage();
          }
        }
        if (answered < count) {
          throw new Wrong("answered " + answered + " of " + count + ": " + lost);
        }
      } finally {
        channel.shutdownNow();
      }
    };
  }

  static Case on(OnCall run) {
    return plan -> {
      var channel =
          connect(plan).keepAliveTime(10, TimeUnit.SECONDS).keepAliveTimeout(1, TimeUnit.SECONDS).build();
      try {
        var call = new Call(plan, channel, plan.token(0));
        call.ask(plan.message("first"));
        run.run(plan, channel, call);
      } finally {
        channel.shutdownNow();
      }
    };
  }

  static Case longMetadata(int size, boolean taken) {
    return on(
        (plan, channel, other) -> {
          var status = shortCall(plan, channel, plan.token(0), size / 1000);
          if (status.isOk() != taken) {
            throw new Wrong(size + " bytes of metadata: " + status);
          }
          expect(shortCall(plan, channel, plan.token(0), 0), Status.Code.OK);
          other.lives();
        });
  }

  static final Map<String, Case> CASES = new LinkedHashMap<>();

  static {
    CASES.put("1 call", together(1, "first"));
    CASES.put("8 calls, 200 kB each", together(8, "200kB"));
    CASES.put("16 calls, 200 kB each", together(16, "200kB"));
    CASES.put("32 calls, 200 kB each", together(32, "200kB"));
    CASES.put("8 calls, 1 MB each", together(8, "1MB"));
    CASES.put("256 calls", together(256, "first"));
    CASES.put(
        "300 short calls",
        on(
            (plan, channel, other) -> {
              var calls = new ArrayList<Call>();
              for (int number = 0; number < 300; number++) {
                calls.add(opened(plan, channel, plan.token(number), 0));
              }
              for (var call : calls) {
                expect(call.status(), Status.Code.OK);
              }
            }));
    CASES.put(
        "deadline",
        on(
            (plan, channel, other) -> {
              var options = CallOptions.DEFAULT.withDeadlineAfter(500, TimeUnit.MILLISECONDS);
              var call = new Call(plan, channel, plan.delta, plan.token(1), options, 0);
              call.ask(plan.message("first"));
              expect(call.status(), Status.Code.DEADLINE_EXCEEDED);
              expect(shortCall(plan, channel, plan.token(0), 0), Status.Code.OK);
            }));
    CASES.put(
        "cancellation",
        on(
            (plan, channel, other) -> {
              byte[] first = plan.message("200kB");
              for (int number = 0; number < 50; number++) {
                var call = new Call(plan, channel, plan.token(number));
                if (number % 3 == 1) {
                  call.call.sendMessage(first);
                } else if (number % 3 == 2) {
                  call.ask(first);
                }
                call.call.cancel("given up", null);
              }
              other.lives();
            }));
    CASES.put("half close", on((plan, channel, call) -> call.lives()));
    CASES.put(
        "compression",
        on(
            (plan, channel, other) -> {
              var options = CallOptions.DEFAULT.withCompression("gzip");
              var call = new Call(plan, channel, plan.delta, plan.token(1), options, 0);
              call.call.setMessageCompression(true);
              call.call.sendMessage(plan.message("200kB"));
              byte[] answer = call.arrived.poll(call.patience, TimeUnit.MILLISECONDS);
              if (answer == null || answer.length == 0) {
                expect(call.status(), Status.Code.UNIMPLEMENTED);
              }
              other.lives();
            }));
    CASES.put(
        "keepalive",
        on(
            (plan, channel, call) -> {
              Thread.sleep(11_000);
              call.lives();
            }));
    CASES.put("16 kB of metadata", longMetadata(16_000, true));
    CASES.put("100 kB of metadata", longMetadata(100_000, false));
    CASES.put(
        "message of 9 MB",
        on(
            (plan, channel, other) -> {
              var call = new Call(plan, channel, plan.token(1));
              call.call.sendMessage(plan.message("9MB"));
              expect(call.status(), Status.Code.RESOURCE_EXHAUSTED);
              other.lives();
            }));
    CASES.put(
        "answer of 5 MB",
        on(
            (plan, channel, other) -> {
              int size = new Call(plan, channel, plan.bulky).ask(plan.message("first")).length;
              if (size < 5_000_000) {
                throw new Wrong(size + " bytes");
              }
            }));
    CASES.put(
        "refusals",
        on(
            (plan, channel, other) -> {
              expect(shortCall(plan, channel, "nonsense", 0), Status.Code.UNAUTHENTICATED);
              expect(new Call(plan, channel, "").status(), Status.Code.UNAUTHENTICATED);
              var call = new Call(plan, channel, "/no/such", plan.token(0), CallOptions.DEFAULT, 0);
              expect(call.status(), Status.Code.UNIMPLEMENTED);
              other.lives();
            }));
  }

  public static void main(String[] arguments) throws IOException {
    var plan = new Gson().fromJson(Files.readString(Path.of(arguments[0])), Plan.class);
    for (var one : CASES.entrySet()) {
      if (plan.omit.contains(one.getKey())) {
        continue;
      }
      var row = new Row(one.getKey(), true, "");
      try {
        one.getValue().run(plan);
      } catch (Exception error) {
        row = new Row(one.getKey(), false, String.valueOf(error.getMessage()));
      }
      System.out.println(row.json());
    }
    System.exit(0);
  }
}
