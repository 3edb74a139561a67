import CSRKit
import CoreML
import Foundation

/// Why there is no picture.
public struct UpscaleError: LocalizedError {
    public let message: String
    public var errorDescription: String? { message }
}

/// Pixels of four bytes each: red, green, blue, alpha, row after row.
public struct Pixels {
    public let height: Int
    public let width: Int
    public var bytes: [UInt8]

    public init(height: Int, width: Int, bytes: [UInt8]) {
        self.height = height
        self.width = width
        self.bytes = bytes
    }
}

/// The model of an exported folder in Core ML, with the arithmetic of sr_kit.hpp around it.
///
/// One picture at a time, from any one thread.
public final class Upscaler {
    /// Where Core ML may compute. It chooses by itself within this, graph by graph, and does not
    /// say where it went: `MLComputePlan` tells it of each operator, from iOS 17.4 on.
    public let units: MLComputeUnits
    private let graphs: [String: MLModel]

    public static var scale: Int { Int(sr_kit_scale()) }

    /// - Parameters:
    ///   - folder: of compiled models (.mlmodelc), or of the packages, which are compiled then.
    ///   - units: `.cpuAndNeuralEngine` leaves the GPU out, `.all` takes any.
    public init(folder: URL, units: MLComputeUnits = .cpuAndNeuralEngine) async throws {
        self.units = units
        let settings = MLModelConfiguration()
        settings.computeUnits = units
        var loaded: [String: MLModel] = [:]
        for number in 0..<sr_kit_graph_count() {
            let name = String(cString: sr_kit_graph_name(number))
            let package = folder.appending(path: String(cString: sr_kit_graph_file(number)))
            let compiled = package.deletingPathExtension().appendingPathExtension("mlmodelc")
            let isThere = FileManager.default.fileExists(atPath: compiled.path)
            let url = isThere ? compiled : try await MLModel.compileModel(at: package)
            loaded[name] = try await MLModel.load(contentsOf: url, configuration: settings)
        }
        graphs = loaded
    }

    /// The model's whole result; `watch` is told tiles done and of all, and ends it by false.
    public func upscale(
        _ pixels: Pixels, watch: @escaping (Int, Int) -> Bool = { _, _ in true }
    ) throws -> Pixels {
        let scale = Self.scale
        let call = Call(graphs: graphs, watch: watch)
        var result = [UInt8](repeating: 0, count: pixels.bytes.count * scale * scale)
        try check(call) { message, room in
            sr_kit_upscale(
                pixels.bytes, Int32(pixels.height), Int32(pixels.width), pixels.width * 4,
                runGraph, watchTiles, Unmanaged.passUnretained(call).toOpaque(), &result,
                message, room)
        }
        return Pixels(height: pixels.height * scale, width: pixels.width * scale, bytes: result)
    }

    /// Between the plain enlargement of `pixels`, at strength 0, and `result`, at 1.
    public static func blend(_ pixels: Pixels, _ result: Pixels, strength: Double) throws -> Pixels {
        var mixed = result
        try check(nil) { message, room in
            sr_kit_blend(
                pixels.bytes, Int32(pixels.height), Int32(pixels.width), pixels.width * 4,
                result.bytes, strength, &mixed.bytes, message, room)
        }
        return mixed
    }

    private func check(
        _ call: Call?, _ work: (UnsafeMutablePointer<CChar>, Int) -> sr_kit_end
    ) throws {
        try Self.check(call, work)
    }

    private static func check(
        _ call: Call?, _ work: (UnsafeMutablePointer<CChar>, Int) -> sr_kit_end
    ) throws {
        var message = [CChar](repeating: 0, count: 512)
        let end = message.withUnsafeMutableBufferPointer { work($0.baseAddress!, $0.count) }
        if end == SR_KIT_CANCELLED { throw CancellationError() }
        if let error = call?.error { throw error }
        if end != SR_KIT_DONE { throw UpscaleError(message: String(cString: message)) }
    }
}
