// A modality of another make: sends normalized requests over one association and prints, as one JSON object, what was
// answered to each and which commitment reports came on that association, or on its own port when it has one.
//
// usage: node scu.js '{"port", "calling", "requests": [{"service", "sop_class", "sop_instance", "action", "dataset"}],
//                      "linger_ms", "listen"}'
const path = require('path');
const dimse = require(path.join(process.cwd(), 'node_modules', 'dcmjs-dimse'));
dimse.log.disableAll();

const task = JSON.parse(process.argv[2]);
const answers = [];
const reports = [];

function made(one) {
  const { NCreateRequest, NSetRequest, NActionRequest } = dimse.requests;
  const request = {
    'N-CREATE': () => new NCreateRequest(one.sop_class, one.sop_instance),
    'N-SET': () => new NSetRequest(one.sop_class, one.sop_instance),
    'N-ACTION': () => new NActionRequest(one.sop_class, one.sop_instance, one.action),
  }[one.service]();
  request.setDataset(new dimse.Dataset(one.dataset));
  request.on('response', (response) => {
    answers.push({ status: response.getStatus(), sop_instance: response.getAffectedSopInstanceUid() || '' });
  });
  return request;
}

function reported(request, callback) {
  reports.push({ event: request.getEventTypeId(), dataset: request.getDataset().getElements() });
  const response = dimse.responses.NEventReportResponse.fromRequest(request);
  response.setStatus(dimse.constants.Status.Success);
  callback(response);
}

class Port extends dimse.Scp {
  associationRequested(association) {
    association.getPresentationContexts().forEach(({ id }) => {
      const context = association.getPresentationContext(id);
      context.setResult(dimse.constants.PresentationContextResult.Accept, context.getTransferSyntaxUids()[0]);
    });
    this.sendAssociationAccept();
  }
  nEventReportRequest(request, callback) {
    reported(request, callback);
    setTimeout(done, 300);
  }
  associationReleaseRequested() {
    this.sendAssociationReleaseResponse();
  }
}

function done() {
  process.stdout.write(JSON.stringify({ answers, reports }) + '\n', () => process.exit(0));
}

if (task.listen) new dimse.Server(Port).listen(task.listen);
const client = new dimse.Client();
task.requests.forEach((one) => client.addRequest(made(one)));
client.on('nEventReportRequest', reported);
client.on('networkError', (error) => {
  process.stderr.write(`${error.message}\n`);
  process.exit(1);
});
client.on('associationRejected', () => process.exit(3));
client.on('closed', () => {
  if (!task.listen) done();
});
client.send('127.0.0.1', task.port, task.calling, 'HILUM', { associationLingerTimeout: task.linger_ms || 0 });
