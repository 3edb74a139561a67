import CSRKit
import CoreML
import Foundation

/// What C calls back to while a picture is made.
final class Call {
    let graphs: [String: MLModel]
    let watch: (Int, Int) -> Bool
    var error: Error?

    init(graphs: [String: MLModel], watch: @escaping (Int, Int) -> Bool) {
        self.graphs = graphs
        self.watch = watch
    }

    func run(
        _ name: String, _ inputs: UnsafeBufferPointer<sr_kit_input>,
        _ outputs: UnsafeBufferPointer<sr_kit_output>
    ) throws {
        guard let model = graphs[name] else { throw UpscaleError(message: "no graph \(name)") }
        var features: [String: MLFeatureValue] = [:]
        for input in inputs {
            features[String(cString: input.name)] = MLFeatureValue(multiArray: try array(input))
        }
        let made = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: features))
        for output in outputs {
            let name = String(cString: output.name)
            guard let values = made.featureValue(for: name)?.multiArrayValue else {
                throw UpscaleError(message: "the model makes no \(name)")
            }
            // Core ML may pad rows and compute in float16: this gives plain float32 in order.
            let scalars = MLShapedArray<Float>(converting: values).scalars
            guard scalars.count == output.count else {
                throw UpscaleError(message: "\(name) has \(scalars.count) values")
            }
            scalars.withUnsafeBufferPointer {
                output.floats.update(from: $0.baseAddress!, count: output.count)
            }
        }
    }

    /// A copy: C's memory holds for the call alone. Core ML's models take timesteps as floats.
    private func array(_ input: sr_kit_input) throws -> MLMultiArray {
        let shape = (0..<Int(input.rank)).map { NSNumber(value: input.shape[$0]) }
        let made = try MLMultiArray(shape: shape, dataType: .float32)
        made.withUnsafeMutableBufferPointer(ofType: Float.self) { values, _ in
            for i in 0..<values.count {
                values[i] = input.floats == nil ? Float(input.integers[i]) : input.floats[i]
            }
        }
        return made
    }
}

let runGraph: sr_kit_run = { context, graph, inputs, inputCount, outputs, outputCount in
    let call = Unmanaged<Call>.fromOpaque(context!).takeUnretainedValue()
    do {
        try call.run(
            String(cString: graph!),
            UnsafeBufferPointer(start: inputs, count: Int(inputCount)),
            UnsafeBufferPointer(start: outputs, count: Int(outputCount)))
        return 0
    } catch {
        call.error = error
        return 1
    }
}

let watchTiles: sr_kit_watch = { context, done, all in
    let call = Unmanaged<Call>.fromOpaque(context!).takeUnretainedValue()
    return call.watch(Int(done), Int(all)) ? 1 : 0
}
